// The pose canvas and the page of the WebUI: reads the tab's size and pictures, reads and writes the controls of each
// person, and fetches the scene through a hidden button. Works with the pages of Gradio 3 and 4.

(function (facesnap) {
    "use strict";

    const NO_IDENTITY = ["", "none"]; // what the list of identities shows where none is chosen
    const WRITE_AFTER = 80; // ms: a drag does not write at every move
    // What holds the picture in each tab of img2img that has one, the same in all hosts: img2img, Sketch, Inpaint,
    // Inpaint sketch, Inpaint upload.
    const INITS = ["img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch", "img_inpaint_base"];

    const visible = (one) => Boolean(one) && one.offsetParent !== null;

    /** What an element's pictures and files are, short enough to compare: an address may hold a whole photo. */
    function contentsOf(element) {
        if (!element) return "";
        const addresses = [...element.querySelectorAll("img")].map((one) => one.src);
        const links = [...element.querySelectorAll("a[href]")].map((one) => one.href);
        return [...addresses, ...links].map((one) => `${one.length}:${one.slice(-80)}`).join(" ");
    }

    /** What is typed into: Gradio makes one of two elements of a text box, and an input of a list. */
    const textField = (element) => element && element.querySelector("textarea, input");

    function setText(field, text) {
        if (!field || field.value === text) return;
        field.value = text;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    /** The holder of the picture that img2img starts from, in the tab that is open; null where it has none (Batch). */
    function initHolder() {
        return INITS.map((id) => gradioApp().querySelector(`#mode_img2img #${id}`)).find(visible) || null;
    }

    /** Values of the scene's inputs, whose last are those of INITS: only the open tab's picture goes to the server. */
    function sceneInputs(values) {
        const holder = initHolder();
        const first = values.length - INITS.length;
        return values.map((value, n) => (n < first || (holder && INITS[n - first] === holder.id) ? value : null));
    }

    class CanvasPage {
        constructor(tab) {
            this.tab = tab;
            this.seen = new Map(); // person's number -> what its controls said last, as text
            this.states = new Map(); // person's number -> the state that this stands for
        }

        find(name) {
            return gradioApp().querySelector(`#facesnap_${this.tab}_${name}`);
        }

        get container() {
            return this.find("canvas");
        }

        // ----- the picture to be made

        /** (width, height) of the tab, or null while its fields are not there. */
        size() {
            const number = (name) => {
                const field = gradioApp().querySelector(`#${this.tab}_${name} input[type=number]`);
                return field ? Number(field.value) : NaN;
            };
            const image = visible(gradioApp().querySelector("#img2img_tab_resize_by")) && this.initImage();
            const found = image
                ? [image.naturalWidth, image.naturalHeight].map((side) => Math.round(side * number("scale")))
                : [number("width"), number("height")];
            return found.every((side) => side >= 1 && side <= 16384) ? found.map(Math.round) : null;
        }

        initImage() {
            if (this.tab !== "img2img") return null;
            const holder = initHolder();
            const found = holder ? [...holder.querySelectorAll("img")] : [];
            // Where it is drawn on, AUTOMATIC1111 hides the picture itself behind its canvas.
            return found.find((one) => one.naturalWidth > 1) || null;
        }

        /** The address of a backdrop, or "". */
        backdrop(kind) {
            if (kind === "init") return (this.initImage() || {}).src || "";
            if (kind !== "result") return "";
            const gallery = gradioApp().querySelector(`#${this.tab}_gallery`);
            const shown = gallery && (gallery.querySelector(".preview img") || gallery.querySelector("img"));
            return shown ? shown.src : "";
        }

        // ----- who is drawn

        /** Changes whenever another scene is needed; "" where no person is given. */
        sceneKey() {
            const parts = [];
            let given = false;
            for (let n = 1; this.find(`p${n}_references`) || this.find(`p${n}_identity`); n++) {
                const photos = contentsOf(this.find(`p${n}_references`));
                const text = (name) => (textField(this.find(`p${n}_${name}`)) || {value: ""}).value.trim();
                given = given || photos !== "" || !NO_IDENTITY.includes(text("identity").toLowerCase());
                parts.push([photos, text("identity"), text("face"), contentsOf(this.find(`p${n}_pose_image`))]);
            }
            const init = this.initImage();
            const shown = init ? `${init.src.length}:${init.src.slice(-80)}` : "";
            return given ? JSON.stringify([parts, shown, (textField(this.find("adapter")) || {value: ""}).value]) : "";
        }

        get answer() {
            return (textField(this.find("canvas_scene")) || {value: ""}).value;
        }

        ask() {
            const button = this.find("canvas_scene_load");
            if (button) button.click();
            return Boolean(button);
        }

        // ----- the controls of a person

        field(number, name) {
            return textField(this.find(`p${number}_pose_${name}`));
        }

        radio(number, name, value) {
            const choices = gradioApp().querySelectorAll(`#facesnap_${this.tab}_p${number}_pose_${name} input[type=radio]`);
            return [...choices].find((one) => (value === undefined ? one.checked : one.value === value)) || null;
        }

        said(number) {
            const text = (name) => (this.field(number, name) || {value: ""}).value;
            const choice = (name, otherwise) => (this.radio(number, name) || {value: otherwise}).value;
            return {
                source: choice("source", "reference"), framing: choice("framing", "keep framing"),
                values: text("values"), expression: text("expression"),
            };
        }

        /** Read the controls of all people anew. */
        forget() {
            this.seen.clear();
        }

        /** The state that the controls of a person say, if they say another than last time: [state, problem]. */
        news(number, scene) {
            const said = this.said(number);
            const key = JSON.stringify(said);
            if (this.seen.get(number) === key) return null;
            this.seen.set(number, key);
            const {source, framing} = said;
            try {
                const numbers = facesnap.poseText.readNumbers(said.values, scene.ranges);
                const expression = facesnap.poseText.readExpression(said.expression, Object.keys(scene.presets));
                this.states.set(number, {source, framing, numbers, expression});
                return [this.states.get(number), ""];
            } catch (error) {
                return [null, error.message];
            }
        }

        /** Write a person's state into the controls, unless it came from there. */
        write(number, state) {
            if (this.states.get(number) === state) return;
            setText(this.field(number, "values"), facesnap.poseText.writeNumbers(state.numbers));
            setText(this.field(number, "expression"), facesnap.poseText.writeExpression(state.expression));
            const choice = this.radio(number, "source", state.source);
            if (choice && !choice.checked) choice.click();
            this.seen.set(number, JSON.stringify(this.said(number)));
            this.states.set(number, state);
        }
    }

    Object.assign(facesnap, {CanvasPage, sceneInputs, canvasVisible: visible, canvasWriteAfter: WRITE_AFTER});
})((window.facesnap = window.facesnap || {}));
