// The controls around the pose canvas: people, actions, the pose by numbers and the expression by sliders.

(function (facesnap) {
    "use strict";

    const NUMBERS = { // name: [label, step, help]
        yaw: ["Yaw", 0.5, "Degrees; positive turns the face to the picture's right"],
        pitch: ["Pitch", 0.5, "Degrees; positive makes the face look up"],
        roll: ["Roll", 0.5, "Degrees; positive tilts the head to the picture's right"],
        x: ["X", 0.005, "Face centre, fraction of the picture's width"],
        y: ["Y", 0.005, "Face centre, fraction of the picture's height"],
        size: ["Size", 0.005, "Brows to chin, fraction of the picture's shorter side"],
    };
    const COPIES = {picture: "Pose picture", init: "Init image", reference: "Reference"};
    // What the sliders offer of the numbers' wider ranges.
    const OFFERED = {x: [0, 1], y: [0, 1], size: [0.05, 1.2]};

    function make(name, attributes, ...children) {
        const made = document.createElement(name);
        for (const [key, value] of Object.entries(attributes || {})) {
            if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
            else if (value !== false) made.setAttribute(key, value);
        }
        made.append(...children);
        return made;
    }

    /** A label with a slider and a number box that say the same. change(value) at each move, done() at the end. */
    class Row {
        constructor(label, help, range, limits, step, {begin, change, done}) {
            const take = (event) => {
                const value = Number(event.target.value);
                if (event.target.value === "" || Number.isNaN(value)) return;
                begin();
                change(value);
            };
            const events = {oninput: take, onchange: done, onblur: done};
            const box = {type: "number", min: limits[0], max: limits[1], step: "any", "aria-label": label, title: help};
            this.slider = make("input", {type: "range", min: range[0], max: range[1], step, "aria-label": label, ...events});
            this.box = make("input", {...box, ...events});
            this.element = make("div", {class: "facesnap-canvas-row", title: help}, make("span", {}, label), this.slider, this.box);
        }

        show(value, decimals, disabled) {
            for (const field of [this.slider, this.box]) {
                field.disabled = disabled;
                if (field === document.activeElement && field.type === "number") continue; // is being typed
                field.value = disabled ? "" : Number(value.toFixed(decimals));
            }
            const {min, max} = this.slider;
            const fill = disabled ? 0 : (100 * (value - min)) / (max - min);
            this.slider.style.setProperty("--fill", `${facesnap.pose.clamp(fill, 0, 100)}%`);
        }
    }

    class Panel {
        /** actions: {refresh(), backdrop(kind), network(on)} */
        constructor(model, backdrops, actions) {
            this.model = model;
            const button = (label, title, onclick) => make("button", {type: "button", title, onclick}, label);
            this.people = make("div", {class: "facesnap-canvas-people", role: "group", "aria-label": "People"});
            this.undo = button("Undo", "Undo (Ctrl+Z)", () => model.undo());
            this.redo = button("Redo", "Redo (Ctrl+Y)", () => model.redo());
            this.mirror = button("Mirror", "Mirror the pose left to right (M)", () => model.mirror());
            this.front = button("Front", "Look straight to the front (Home)", () => model.front());
            this.reset = button("Reset", "Back to the reference photo's own pose", () => model.reset([model.selected]));
            this.resetAll = button("Reset all", "All people back to the reference photo's own pose",
                () => model.reset(model.people.map((one) => one.number)));
            this.copies = {};
            for (const [name, label] of Object.entries(COPIES)) {
                this.copies[name] = button(label, "Take over the pose and expression fitted to it", () => model.copy(name));
            }
            this.backdrop = make("select", {"aria-label": "Backdrop", onchange: (e) => actions.backdrop(e.target.value)},
                ...Object.entries(backdrops).map(([value, label]) => make("option", {value}, label)));
            this.network = make("input", {type: "checkbox", onchange: (event) => actions.network(event.target.checked)});
            this.refresh = button("Refresh", "Read the photos again", actions.refresh);
            this.tools = make("div", {class: "facesnap-canvas-tools", role: "toolbar", "aria-label": "Pose canvas"},
                group("Edit", this.undo, this.redo, this.mirror, this.front, this.reset, this.resetAll),
                group("Copy from", ...Object.values(this.copies)),
            );
            this.views = make("div", {class: "facesnap-canvas-views"},
                make("label", {title: "A picture to pose over, dimmed"}, "Backdrop", this.backdrop),
                make("label", {title: "The landmark picture that the network gets"}, this.network, "Network's picture"),
                this.refresh,
            );
            this.status = make("div", {class: "facesnap-canvas-status", role: "status", "aria-live": "polite"});
            this.numbers = {};
            this.expressions = {};
            this.pose = make("fieldset", {class: "facesnap-canvas-pose"}, make("legend", {}, "Pose"));
            this.mix = make("fieldset", {class: "facesnap-canvas-mix"}, make("legend", {}, "Expression"));
        }

        /** The rows need the scene: its ranges and its presets. */
        rows(scene) {
            const names = Object.keys(scene.presets);
            if (Object.keys(this.expressions).join() === names.join()) return;
            const gesture = {begin: () => this.model.begin(), done: () => this.model.end()};
            for (const [name, [label, step, help]] of Object.entries(NUMBERS)) {
                const limits = scene.ranges[name];
                const change = (value) => this.model.turn({[name]: facesnap.pose.clamp(value, ...limits)});
                this.numbers[name] = new Row(label, help, OFFERED[name] || limits, limits, step, {...gesture, change});
            }
            for (const name of names) {
                const label = name[0].toUpperCase() + name.slice(1).replace(/_/g, " ");
                const change = (value) => this.model.express({[name]: Number(facesnap.pose.clamp(value, 0, 1).toFixed(2))});
                const help = `${label}, 0 to 1` + (/_(left|right)$/.test(name) ? "; the person's own side" : "");
                this.expressions[name] = new Row(label, help, [0, 1], [0, 1], 0.01, {...gesture, change});
            }
            for (const [place, rows] of [[this.pose, this.numbers], [this.mix, this.expressions]]) {
                place.replaceChildren(place.firstChild, ...Object.values(rows).map((row) => row.element));
            }
        }

        draw(message) {
            const {model} = this;
            const person = model.current;
            const resolved = person && model.resolved(person);
            if (model.scene) this.rows(model.scene);
            this.chips();
            const colour = facesnap.colourOf(person ? person.number : 1);
            for (const part of [this.pose, this.mix]) part.style.setProperty("--person", colour);
            for (const [name, row] of Object.entries(this.numbers)) {
                row.show(resolved ? resolved.numbers[name] : 0, Math.min(facesnap.pose.DECIMALS[name], 3), !resolved);
            }
            const mix = resolved && (resolved.expression || (resolved.driver && resolved.driver.mix));
            for (const [name, row] of Object.entries(this.expressions)) row.show((mix || {})[name] || 0, 2, !resolved);
            this.undo.disabled = !model.past.length;
            this.redo.disabled = !model.future.length;
            for (const one of [this.mirror, this.front]) one.disabled = !resolved;
            for (const one of [this.reset, this.resetAll]) one.disabled = !person;
            this.resetAll.hidden = model.people.length < 2;
            const copyable = model.copyable();
            for (const [name, one] of Object.entries(this.copies)) {
                one.disabled = !copyable.includes(name);
                one.hidden = name === "init" && one.disabled;
            }
            if (this.status.textContent !== message.text) this.status.textContent = message.text;
            this.status.dataset.kind = message.kind;
        }

        chips() {
            const {people, selected} = this.model;
            const shown = people.map((one) => [one.number, facesnap.nameOf(one), Boolean(one.error || one.problem)]);
            const key = JSON.stringify([shown, selected]);
            if (this.people.dataset.key === key) return; // do not take the focus away
            this.people.dataset.key = key;
            this.people.replaceChildren(...shown.map(([number, name, wrong]) => {
                const chip = make("button", {
                    type: "button", "aria-pressed": String(number === selected), "data-number": number,
                    onclick: () => this.model.select(number),
                }, wrong ? `${name} !` : name);
                chip.style.setProperty("--person", facesnap.colourOf(number));
                return chip;
            }));
        }
    }

    function group(label, ...children) {
        return make("div", {class: "facesnap-canvas-group", role: "group", "aria-label": label}, make("span", {}, label), ...children);
    }

    Object.assign(facesnap, {CanvasPanel: Panel, makeElement: make});
})((window.facesnap = window.facesnap || {}));
