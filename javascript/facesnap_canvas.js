// The pose canvas of a tab, put together, and its life in the page.

(function (facesnap) {
    "use strict";

    const REST = 150; // ms from a sign of change to the look at the page
    const PATIENCE = 120_000; // ms to wait for a scene
    // Controls that the server changes raise no events, but Gradio's progress marks come and go with them, which the
    // host's onAfterUiUpdate reports.
    const SIGNS = ["input", "change", "click", "load"];
    const BACKDROPS = {none: "None", result: "Last result"};
    const EMPTY = "Add a reference photo or choose an identity: the face appears here.";

    facesnap.nameOf = (person) =>
        person.name && !/^person \d+$/.test(person.name) ? `${person.number} ${person.name}` : `Person ${person.number}`;

    /** A person's pose in words, for screen readers. */
    facesnap.describe = (person, resolved) => {
        const {yaw, pitch, roll, x, y, size} = resolved.numbers;
        const share = (value) => `${Math.round(100 * value)} percent`;
        return `${facesnap.nameOf(person)}: yaw ${yaw.toFixed(0)}, pitch ${pitch.toFixed(0)}, roll ${roll.toFixed(0)} ` +
            `degrees, ${share(x)} from the left, ${share(y)} from the top, size ${share(size)}`;
    };

    class PoseCanvas {
        constructor(tab) {
            this.page = new facesnap.CanvasPage(tab);
            this.model = new facesnap.CanvasModel((what) => this.changed(what));
            this.drawing = new facesnap.Drawing(this.model);
            this.input = new facesnap.CanvasInput(this.model, this.drawing);
            const backdrops = tab === "img2img" ? {...BACKDROPS, init: "Init image"} : BACKDROPS;
            this.panel = new facesnap.CanvasPanel(this.model, backdrops, {
                refresh: () => this.load(),
                backdrop: (kind) => { this.backdrop = kind; this.update(); },
                network: (on) => { this.drawing.network = on; this.changed("view"); },
            });
            this.backdrop = "none";
            this.waiting = null; // {old: the answer before, timeout}
            this.looking = null;
            this.drawn = ""; // what the scene was made from
            this.failure = "";
            this.writing = null;
            this.frame = null;
            this.spokenAt = 0; // steps that could be undone then
            this.root = this.build();
            new ResizeObserver(() => this.changed("view")).observe(this.drawing.svg);
        }

        build() {
            const make = facesnap.makeElement;
            const {panel} = this;
            this.empty = make("div", {class: "facesnap-canvas-empty"}, EMPTY);
            this.spoken = make("div", {class: "facesnap-canvas-spoken", role: "status", "aria-live": "polite"});
            const hint = make("p", {class: "facesnap-canvas-hint", title: facesnap.canvasHelp},
                "Drag the face to move it, the nose knob to turn, the ring to tilt, its squares or the wheel to size.");
            return make("div", {class: "facesnap-canvas-root"},
                make("div", {class: "facesnap-canvas-head"}, panel.people, panel.views),
                panel.tools,
                make("div", {class: "facesnap-canvas-body"},
                    make("div", {class: "facesnap-canvas-frame"}, this.drawing.svg, this.empty, hint, panel.status),
                    make("div", {class: "facesnap-canvas-side"}, panel.pose, panel.mix)),
                this.spoken);
        }

        /** Put it into its place, once more if Gradio has made the place anew. */
        mount() {
            const place = this.page.container;
            if (!place) return false;
            if (this.root.parentNode !== place) place.replaceChildren(this.root);
            return true;
        }

        changed(what) {
            if (what === "state" && this.writing === null) {
                this.writing = setTimeout(() => this.write(), facesnap.canvasWriteAfter);
            }
            if (this.frame === null) this.frame = requestAnimationFrame(() => this.draw());
        }

        write() {
            this.writing = null;
            for (const person of this.model.people.filter((one) => !one.problem)) this.page.write(person.number, person.state);
            this.look(); // what changed during the gesture
        }

        draw() {
            this.frame = null;
            this.empty.hidden = this.model.people.length > 0;
            this.root.toggleAttribute("data-empty", this.model.people.length === 0);
            if (this.model.scene) this.drawing.draw();
            else this.drawing.svg.setAttribute("viewBox", `0 0 ${this.model.size.join(" ")}`);
            this.panel.draw(this.message());
            this.speak();
        }

        /** After each edit, the pose in words for who does not see it. */
        speak() {
            const person = this.model.current;
            const resolved = person && this.model.resolved(person);
            if (this.model.before || !resolved || this.model.past.length === this.spokenAt) return;
            this.spokenAt = this.model.past.length;
            this.spoken.textContent = facesnap.describe(person, resolved);
        }

        /** What is to be said, most urgent first. */
        message() {
            const person = this.model.current;
            const say = (text, kind = "plain") => ({text, kind});
            if (this.waiting) return say("Reading the photos...");
            if (this.failure) return say(this.failure, "error");
            if (!person) return say("");
            const name = facesnap.nameOf(person);
            const driver = (person.drivers || {})[person.state.source];
            if (person.error) return say(`${name}: ${person.error}`, "error");
            if (person.problem) return say(`${name}: ${person.problem}`, "error");
            if (person.state.source === "none") return say(`${name}: the pose source is "none", so no landmarks act.`);
            if (driver && driver.error) return say(`${name}: ${driver.error}`, "error");
            if (person.state.source !== "canvas" && !driver) {
                const what = {picture: "pose picture", init: "init image"}[person.state.source];
                return say(`${name}: the pose source is the ${what}, but there is none.`, "error");
            }
            const doubts = [...person.doubts, ...((driver || {}).doubts || [])];
            return doubts.length ? say(`${name}: low confidence: ${[...new Set(doubts)].join("; ")}`, "doubt") : say("");
        }

        /** Something may have changed in the page. */
        look() {
            if (this.looking !== null) return;
            this.looking = setTimeout(() => {
                this.looking = null;
                this.update();
            }, REST);
        }

        /** Follow the page. Nothing is done while the canvas cannot be seen. */
        update() {
            if (!this.mount() || !facesnap.canvasVisible(this.root)) return;
            const size = this.page.size();
            if (size) this.model.resize(size);
            this.drawing.setBackdrop(this.page.backdrop(this.backdrop));
            this.receive();
            const key = this.page.sceneKey();
            if (!this.waiting && key !== this.drawn) {
                if (key === this.before) this.load(); // settled
                else this.look();
            }
            this.before = key;
            this.follow();
        }

        follow() {
            if (!this.model.scene || this.input.busy || this.model.before || this.writing !== null) return;
            for (const {number} of this.model.people) {
                const news = this.page.news(number, this.model.scene);
                if (news) this.model.follow(number, ...news);
            }
        }

        load() {
            this.drawn = this.page.sceneKey();
            this.failure = "";
            this.stopWaiting();
            if (!this.drawn) this.clear();
            else if (this.page.container) {
                this.waiting = {old: this.page.answer, timeout: setTimeout(() => this.giveUp(), PATIENCE)};
                if (!this.page.ask()) this.stopWaiting();
            }
            this.changed("view");
        }

        clear() {
            if (this.model.scene) this.model.show({...this.model.scene, people: []});
        }

        receive() {
            const answer = this.page.answer;
            if (!this.waiting || answer === this.waiting.old) return;
            this.stopWaiting();
            const scene = JSON.parse(answer);
            if (scene.error) this.fail(scene.error);
            else this.model.show(scene);
            this.page.forget(); // who comes back has other controls than they had
            this.changed("view");
            this.look(); // the page may have changed meanwhile
        }

        giveUp() {
            this.stopWaiting();
            this.fail("The WebUI does not answer. Press Refresh to try again.");
            this.changed("view");
        }

        stopWaiting() {
            if (this.waiting) clearTimeout(this.waiting.timeout);
            this.waiting = null;
        }

        fail(message) {
            this.failure = message;
            this.clear();
        }
    }

    facesnap.canvases = {};

    function start() {
        for (const tab of ["txt2img", "img2img"]) {
            facesnap.canvases[tab] = new PoseCanvas(tab);
        }
        const look = () => Object.values(facesnap.canvases).forEach((canvas) => canvas.look());
        for (const sign of SIGNS) gradioApp().addEventListener(sign, look, true);
        onAfterUiUpdate(look);
        look();
    }

    onUiLoaded(start);
})((window.facesnap = window.facesnap || {}));
