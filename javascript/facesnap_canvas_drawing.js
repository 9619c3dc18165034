// The drawing of the pose canvas, as SVG: the frame of the picture with a margin around it, every person's landmarks,
// and the handles of the selected one. Lengths in the picture's pixels; `unit` is one pixel of the screen in them.

(function (facesnap) {
    "use strict";

    const SVG = "http://www.w3.org/2000/svg";
    const MARGIN = 0.07; // of the longer side, so that handles near the edge can be reached
    const RING = 0.8, SMALLEST_RING = 58; // of the face's height; pixels of the screen
    const GAZE = 0.62; // how far the nose knob can go, of the ring
    // Sky, orange, green, yellow, pink, lavender, vermilion, grey: distinct to the colour-blind on a dark ground.
    const COLOURS = ["#5cb8f0", "#f2a93b", "#57d1a0", "#f0e35a", "#e08fc0", "#a9a4ff", "#f0764a", "#c9ced6"];

    function element(name, attributes, parent) {
        const made = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
        if (parent) parent.appendChild(made);
        return made;
    }

    const colourOf = (number) => COLOURS[(number - 1) % COLOURS.length];
    const dots = (points) => points.map(([x, y]) => `M${x.toFixed(2)} ${y.toFixed(2)}h0`).join("");
    const trace = (points) => points.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");

    /** Convex hull of points (monotone chain). */
    function hull(points) {
        const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
        const cross = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
        const half = (list) => {
            const kept = [];
            for (const point of list) {
                while (kept.length > 1 && cross(kept[kept.length - 2], kept[kept.length - 1], point) <= 0) kept.pop();
                kept.push(point);
            }
            return kept.slice(0, -1);
        };
        return [...half(sorted), ...half(sorted.reverse())];
    }

    class Drawing {
        constructor(model) {
            this.model = model;
            this.network = false; // the landmark picture as the network sees it
            this.svg = element("svg", {class: "facesnap-canvas-stage", role: "group", preserveAspectRatio: "xMidYMid meet"});
            this.ground = element("rect", {class: "facesnap-canvas-ground", x: 0, y: 0}, this.svg);
            this.backdrop = element("image", {class: "facesnap-canvas-backdrop", x: 0, y: 0, "aria-hidden": "true"}, this.svg);
            this.thirds = element("path", {class: "facesnap-canvas-thirds"}, this.svg);
            this.faces = element("g", {}, this.svg);
            this.outside = element("path", {class: "facesnap-canvas-outside", "fill-rule": "evenodd"}, this.svg);
            this.handles = new Handles(this.svg);
        }

        get unit() {
            const shown = this.svg.getBoundingClientRect();
            const box = this.svg.viewBox.baseVal;
            return shown.width ? Math.max(box.width / shown.width, box.height / shown.height) : box.width / 500;
        }

        /** The point of the picture under a pointer. */
        at(event) {
            const matrix = this.svg.getScreenCTM().inverse();
            const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
            return [point.x, point.y];
        }

        setBackdrop(address) {
            if (address === (this.backdrop.getAttribute("href") || "")) return; // it may hold a whole photo
            if (address) this.backdrop.setAttribute("href", address);
            else this.backdrop.removeAttribute("href");
        }

        draw() {
            const [w, h] = this.model.size;
            const margin = this.network ? 0 : Math.round(MARGIN * Math.max(w, h));
            const view = [-margin, -margin, w + 2 * margin, h + 2 * margin];
            this.svg.setAttribute("viewBox", view.join(" "));
            this.svg.style.setProperty("--facesnap-canvas-aspect", String(view[2] / view[3]));
            this.svg.classList.toggle("facesnap-canvas-network", this.network);
            this.svg.setAttribute("aria-label", `Pose canvas, a picture of ${w} by ${h} pixels`);
            for (const part of [this.ground, this.backdrop]) {
                part.setAttribute("width", w);
                part.setAttribute("height", h);
            }
            this.thirds.setAttribute("d", [1, 2].map((n) =>
                `M${(n * w) / 3} 0V${h}M0 ${(n * h) / 3}H${w}`).join(""));
            this.outside.setAttribute("d",
                `M${view[0]} ${view[1]}h${view[2]}v${view[3]}h${-view[2]}ZM0 0H${w}V${h}H0Z`);
            this.drawFaces();
            const person = this.model.current;
            const resolved = !this.network && person && this.model.resolved(person);
            this.handles.draw(resolved && geometryOf(resolved, this.model.size, this.unit), person, this.unit);
        }

        drawFaces() {
            const {people} = this.model;
            const kept = new Map([...this.faces.children].map((face) => [Number(face.dataset.number), face]));
            for (const person of people) {
                const points = this.model.points(person);
                let face = kept.get(person.number);
                if (!points) continue;
                kept.delete(person.number);
                if (!face) face = this.newFace(person.number);
                this.drawFace(face, person, points);
            }
            kept.forEach((face) => face.remove());
        }

        newFace(number) {
            const face = element("g", {class: "facesnap-canvas-face", tabindex: 0, role: "group", "data-number": number});
            face.style.setProperty("--person", colourOf(number));
            for (const name of ["area", "lines", "dots"]) element("path", {class: `facesnap-canvas-${name}`}, face);
            face.querySelector(".facesnap-canvas-area").dataset.handle = "move";
            element("g", {class: "facesnap-canvas-parts"}, face);
            element("text", {class: "facesnap-canvas-tag", "aria-hidden": "true"}, face);
            const next = [...this.faces.children].find((one) => Number(one.dataset.number) > number);
            this.faces.insertBefore(face, next || null); // in their order, which Tab follows
            return face;
        }

        drawFace(face, person, points) {
            const {scene} = this.model;
            const part = (name) => face.querySelector(`.facesnap-canvas-${name}`);
            face.classList.toggle("facesnap-canvas-selected", person.number === this.model.selected);
            face.setAttribute("aria-label", facesnap.describe(person, this.model.resolved(person)));
            const outline = hull(points);
            part("area").setAttribute("d", `${trace(outline)}Z`);
            part("area").style.strokeWidth = 14 * this.unit;
            part("lines").setAttribute("d", scene.lines.map((line) => trace(line.map((n) => points[n]))).join(""));
            part("lines").style.strokeWidth = 1.2 * this.unit;
            part("dots").setAttribute("d", dots(points));
            part("dots").style.strokeWidth = 3.6 * this.unit;
            this.drawTag(part("tag"), person, outline);
            this.drawParts(part("parts"), points);
        }

        /** Who it is, where there are several: above the face or, of the selected one, above its ring. */
        drawTag(tag, person, outline) {
            const {unit, model} = this;
            let [x, y] = outline.reduce((best, point) => (point[1] < best[1] ? point : best));
            let below = Math.max(...outline.map((point) => point[1]));
            if (person.number === model.selected) {
                const {centre, ring} = geometryOf(model.resolved(person), model.size, unit);
                [x, y, below] = [centre[0], centre[1] - ring, centre[1] + ring];
            }
            const room = this.svg.viewBox.baseVal.y + 24 * unit;
            tag.textContent = model.people.length > 1 ? facesnap.nameOf(person) : "";
            tag.setAttribute("x", x);
            tag.setAttribute("y", y - 14 * unit > room ? y - 14 * unit : below + 22 * unit);
            tag.style.fontSize = `${12 * unit}px`;
            tag.style.strokeWidth = 3 * unit;
        }

        /** The network's picture: a disc for each point in its part's colour, as facesnap/landmarks/render.py. */
        drawParts(group, points) {
            group.replaceChildren();
            if (!this.network) return;
            const {scene, size} = this.model;
            const width = 2 * scene.dot_radius * Math.sqrt(size[0] * size[1]);
            for (const [start, stop, colour] of scene.parts) {
                const style = `stroke:rgb(${colour});stroke-width:${width}`;
                element("path", {d: dots(points.slice(start, stop)), style}, group);
            }
        }
    }

    /** Where the handles of a resolved pose are: centre, ring radius, tip of the gaze. */
    function geometryOf(resolved, size, unit) {
        const {numbers} = resolved;
        const centre = [numbers.x * size[0], numbers.y * size[1]];
        const ring = Math.max(RING * numbers.size * Math.min(...size), SMALLEST_RING * unit);
        const tip = facesnap.pose.gaze(numbers).map((part, axis) => centre[axis] + GAZE * ring * part);
        return {centre, ring, tip, roll: numbers.roll, reach: GAZE * ring};
    }

    /** Ring, tilt knob, four size squares and the nose knob. Their invisible hit areas are larger for fingers. */
    class Handles {
        constructor(svg) {
            this.group = element("g", {class: "facesnap-canvas-handles", "aria-hidden": "true"}, svg);
            this.ring = this.handle("circle", "roll", "Drag to tilt the head", "ring");
            this.gaze = element("path", {class: "facesnap-canvas-gaze"}, this.group);
            this.corners = [45, 135, 225, 315].map(() => this.handle("rect", "scale", "Drag to size the face", "corner"));
            this.knob = this.handle("circle", "roll", "Drag to tilt the head (roll)", "knob");
            this.nose = this.handle("circle", "look", "Drag to turn the head (yaw, pitch)", "nose");
        }

        handle(shape, name, title, kind) {
            const group = element("g", {class: `facesnap-canvas-handle facesnap-canvas-${kind}`, "data-handle": name}, this.group);
            element("title", {}, group).textContent = title;
            const hit = element("circle", {class: "facesnap-canvas-hit"}, group);
            const mark = element(shape, {class: "facesnap-canvas-mark"}, group);
            return {group, hit, mark};
        }

        draw(geometry, person, unit) {
            this.group.style.display = geometry ? "" : "none";
            if (!geometry) return;
            const {centre, ring, tip, roll} = geometry;
            const reach = (window.matchMedia("(pointer: coarse)").matches ? 22 : 12) * unit;
            this.group.style.setProperty("--person", colourOf(person.number));
            const round = (angle) => {
                const turned = facesnap.pose.radians(angle + roll - 90);
                return [centre[0] + ring * Math.cos(turned), centre[1] + ring * Math.sin(turned)];
            };
            place(this.ring.mark, centre, ring);
            place(this.ring.hit, centre, ring);
            this.ring.mark.style.strokeWidth = 1.4 * unit;
            this.ring.hit.style.strokeWidth = 1.2 * reach;
            this.dot(this.knob, round(0), 7 * unit, reach, unit);
            this.dot(this.nose, tip, 6 * unit, reach, unit);
            this.gaze.setAttribute("d", trace([centre, tip]));
            this.gaze.style.strokeWidth = 2 * unit;
            this.corners.forEach((corner, n) => {
                const at = round(45 + 90 * n);
                const side = 10 * unit;
                for (const [key, value] of Object.entries({width: side, height: side, rx: 2 * unit})) {
                    corner.mark.setAttribute(key, value);
                }
                corner.mark.setAttribute("x", at[0] - side / 2);
                corner.mark.setAttribute("y", at[1] - side / 2);
                corner.mark.setAttribute("transform", `rotate(${roll + 45 + 90 * n} ${at[0]} ${at[1]})`);
                corner.mark.style.strokeWidth = 1.5 * unit;
                place(corner.hit, at, reach);
            });
        }

        dot(handle, at, radius, reach, unit) {
            place(handle.mark, at, radius);
            place(handle.hit, at, reach);
            handle.mark.style.strokeWidth = 1.5 * unit;
        }
    }

    function place(circle, [x, y], radius) {
        circle.setAttribute("cx", x);
        circle.setAttribute("cy", y);
        circle.setAttribute("r", radius);
    }

    Object.assign(facesnap, {Drawing, colourOf, geometryOf});
})((window.facesnap = window.facesnap || {}));
