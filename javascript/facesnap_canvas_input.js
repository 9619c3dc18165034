// Pointers, wheel and keys on the pose canvas. Every gesture is one step of undo.

(function (facesnap) {
    "use strict";

    const STEP = {move: 0.01, turn: 2, size: 1.03, wheel: 1.0015}; // of the picture, degrees, factors
    const WHEEL_REST = 400; // ms after which turning the wheel again is another step

    const HELP = "Arrow keys move the face, with Shift they turn it; [ and ] tilt, + and - size, Home looks to the " +
        "front, M mirrors, Ctrl+Z and Ctrl+Y undo and redo, Tab goes to the next person.";

    class CanvasInput {
        constructor(model, drawing) {
            this.model = model;
            this.drawing = drawing;
            this.pointers = new Map(); // id -> place in the picture
            this.drag = null; // {handle, from: place, start: resolved numbers, geometry}
            this.wheelRest = null;
            this.keyDown = false;
            const {svg} = drawing;
            svg.addEventListener("pointerdown", (event) => this.down(event));
            svg.addEventListener("pointermove", (event) => this.move(event));
            for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, (event) => this.up(event));
            // Neither scroll nor zoom the page under a finger that drags; touch-action does not reach inside an SVG.
            svg.addEventListener("touchstart", (event) => this.pointers.size && event.preventDefault(), {passive: false});
            svg.addEventListener("wheel", (event) => this.wheel(event), {passive: false});
            svg.addEventListener("keydown", (event) => this.key(event));
            svg.addEventListener("keyup", () => this.keyEnd());
            svg.addEventListener("focusout", () => this.keyEnd());
            svg.addEventListener("focusin", (event) => {
                const face = event.target.closest(".facesnap-canvas-face");
                if (face) model.select(Number(face.dataset.number));
            });
        }

        get busy() {
            return this.drag !== null || this.keyDown;
        }

        // ----- pointers

        down(event) {
            const handle = this.under(event);
            if (event.button !== 0 || (!handle && !this.pointers.size)) return;
            event.preventDefault();
            if (this.pointers.size === 0) {
                const face = handle.closest(".facesnap-canvas-face");
                const number = face ? Number(face.dataset.number) : this.model.selected;
                this.model.select(number);
                this.focus(number);
                this.model.begin();
            }
            this.drawing.svg.setPointerCapture(event.pointerId);
            this.pointers.set(event.pointerId, this.drawing.at(event));
            this.grasp(handle ? handle.dataset.handle : "move");
        }

        /** The handle or face under a pointer; where faces overlap, the selected one's. */
        under(event) {
            const handle = event.target.closest("[data-handle]");
            if (!handle || !handle.closest(".facesnap-canvas-face")) return handle;
            const all = this.drawing.svg.getRootNode().elementsFromPoint(event.clientX, event.clientY);
            return all.find((one) => one.matches(".facesnap-canvas-selected > [data-handle]")) || handle;
        }

        focus(number) {
            const face = this.drawing.faces.querySelector(`[data-number="${number}"]`);
            if (face) face.focus({preventScroll: true});
        }

        /** Begin to drag from where the pointers are now; two of them pinch. */
        grasp(handle) {
            const resolved = this.model.resolved(this.model.current);
            if (!resolved) return;
            const places = [...this.pointers.values()];
            const geometry = facesnap.geometryOf(resolved, this.model.size, this.drawing.unit);
            this.drag = {
                handle: places.length > 1 ? "pinch" : handle, from: places, start: resolved.numbers, geometry,
            };
            this.drawing.svg.dataset.dragging = this.drag.handle;
        }

        move(event) {
            if (!this.drag || !this.pointers.has(event.pointerId)) return;
            event.preventDefault();
            this.pointers.set(event.pointerId, this.drawing.at(event));
            const places = [...this.pointers.values()];
            this.model.turn(this[this.drag.handle + "To"](places[0], places[1]));
        }

        up(event) {
            if (!this.pointers.delete(event.pointerId)) return;
            if (this.pointers.size) {
                this.grasp("move"); // the finger that stays goes on from where it is
                return;
            }
            this.drag = null;
            delete this.drawing.svg.dataset.dragging;
            this.model.end();
        }

        // ----- what each handle makes of a place: the numbers it changes

        moveTo([x, y]) {
            const {from, start} = this.drag;
            const [w, h] = this.model.size;
            return {
                x: inside(start.x, start.x + (x - from[0][0]) / w),
                y: inside(start.y, start.y + (y - from[0][1]) / h),
            };
        }

        scaleTo(at) {
            const {from, start, geometry} = this.drag;
            return {size: start.size * ratio(distance(at, geometry.centre), distance(from[0], geometry.centre))};
        }

        rollTo(at) {
            const {from, start, geometry} = this.drag;
            return {roll: start.roll + angle(geometry.centre, at) - angle(geometry.centre, from[0])};
        }

        lookTo(at) {
            const {from, start, geometry} = this.drag;
            const gaze = [0, 1].map((axis) =>
                (geometry.tip[axis] - geometry.centre[axis] + at[axis] - from[0][axis]) / geometry.reach);
            return facesnap.pose.lookingAt(gaze, start.roll);
        }

        pinchTo(first, second) {
            const {from, start} = this.drag;
            const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
            const [was, is] = [middle(...from), middle(first, second)];
            return {
                x: inside(start.x, start.x + (is[0] - was[0]) / this.model.size[0]),
                y: inside(start.y, start.y + (is[1] - was[1]) / this.model.size[1]),
                size: start.size * ratio(distance(first, second), distance(...from)),
                roll: start.roll + angle(first, second) - angle(...from),
            };
        }

        // ----- wheel: only over a face, so that the page scrolls elsewhere

        wheel(event) {
            const handle = this.under(event);
            if (!handle || this.drag) return;
            event.preventDefault();
            const face = handle.closest(".facesnap-canvas-face");
            if (face) this.model.select(Number(face.dataset.number));
            const resolved = this.model.resolved(this.model.current);
            if (!resolved) return;
            const lines = event.deltaMode === 1 ? 30 : 1; // Firefox counts lines
            this.model.begin();
            this.model.turn({size: resolved.numbers.size * STEP.wheel ** (-event.deltaY * lines)});
            clearTimeout(this.wheelRest);
            this.wheelRest = setTimeout(() => this.model.end(), WHEEL_REST);
        }

        // ----- keys

        key(event) {
            const {model} = this;
            const command = event.ctrlKey || event.metaKey;
            const letter = event.key.toLowerCase();
            if (command && (letter === "z" || letter === "y")) {
                event.preventDefault();
                event.stopPropagation();
                this.keyEnd();
                if (letter === "y" || event.shiftKey) model.redo();
                else model.undo();
                return;
            }
            if (command || event.altKey || !event.target.closest(".facesnap-canvas-face")) return;
            const resolved = model.resolved(model.current);
            const change = resolved && this.changeOf(event, resolved.numbers);
            if (!change) return;
            event.preventDefault();
            event.stopPropagation();
            this.keyDown = true;
            model.begin(); // until the key is let go: holding it is one step
            change();
        }

        changeOf({key, shiftKey}, {yaw, pitch, roll, x, y, size}) {
            const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
            const turn = (numbers) => () => this.model.turn(numbers);
            if (key in arrows) {
                const [dx, dy] = arrows[key];
                if (shiftKey) return turn({yaw: yaw + STEP.turn * dx, pitch: pitch - STEP.turn * dy});
                return turn({x: inside(x, x + STEP.move * dx), y: inside(y, y + STEP.move * dy)});
            }
            const others = {
                "[": turn({roll: roll - STEP.turn}), "]": turn({roll: roll + STEP.turn}),
                "+": turn({size: size * STEP.size}), "=": turn({size: size * STEP.size}),
                "-": turn({size: size / STEP.size}), "_": turn({size: size / STEP.size}),
                "Home": () => this.model.front(), "m": () => this.model.mirror(), "M": () => this.model.mirror(),
            };
            return others[key];
        }

        keyEnd() {
            if (!this.keyDown) return;
            this.keyDown = false;
            this.model.end();
        }
    }

    /** A fraction of the picture that stays on it; what was typed beyond its edges does not jump. */
    const inside = (before, now) => facesnap.pose.clamp(now, Math.min(0, before), Math.max(1, before));
    const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const ratio = (now, before) => now / Math.max(before, 1e-6);
    const angle = (from, to) => facesnap.pose.degrees(Math.atan2(to[1] - from[1], to[0] - from[0]));

    Object.assign(facesnap, {CanvasInput, canvasHelp: HELP});
})((window.facesnap = window.facesnap || {}));
