// The people on the pose canvas: what each one's controls say, which one is selected, and what can be undone.
// Nothing here touches the page: `changed` is called after each change, and the page's controls are written from it.

(function (facesnap) {
    "use strict";

    const MOST_STEPS = 200;

    class CanvasModel {
        /** changed(what): "view" where only what is shown differs, "state" where a person's controls are to be written. */
        constructor(changed) {
            this.changed = changed;
            this.scene = null;
            this.people = []; // {number, name, error, doubts, shape, height, drivers, state, problem}
            this.size = [512, 512];
            this.selected = null; // a person's number
            this.past = [];
            this.future = [];
            this.before = null; // the snapshot from the beginning of a gesture
        }

        /** Take over a new scene; people keep their states by their numbers. */
        show(scene) {
            const states = new Map(this.people.map((one) => [one.number, one]));
            this.scene = scene;
            this.people = scene.people.map((one) => {
                const old = states.get(one.number);
                return {...one, state: old ? old.state : blank(), problem: old ? old.problem : ""};
            });
            if (!this.person(this.selected)) this.selected = this.people.length ? this.people[0].number : null;
            this.changed("view");
        }

        person(number) {
            return this.people.find((one) => one.number === number);
        }

        get current() {
            return this.person(this.selected);
        }

        select(number) {
            if (this.selected === number || !this.person(number)) return;
            this.selected = number;
            this.changed("view");
        }

        resize(size) {
            if (size[0] === this.size[0] && size[1] === this.size[1]) return;
            this.size = size;
            this.changed("view");
        }

        /** The controls of a person say this now. A problem leaves the last state that could be read in place. */
        follow(number, state, problem) {
            const person = this.person(number);
            if (!person) return;
            if (!problem) person.state = state;
            person.problem = problem;
            this.changed("view");
        }

        /** The pose of a person as it is drawn, or null. */
        resolved(person) {
            return this.scene && facesnap.pose.resolve(this.scene, person, person.state, this.size);
        }

        points(person) {
            const resolved = this.resolved(person);
            return resolved && facesnap.pose.points(this.scene, person, resolved, this.size);
        }

        /** What may be copied: the names of the selected person's drivers that show a face. */
        copyable() {
            const drivers = (this.current && this.current.drivers) || {};
            return Object.keys(drivers).filter((name) => !drivers[name].error);
        }

        // ----- edits; each is one step of undo, and so is everything between begin() and end()

        begin() {
            if (!this.before) this.before = this.snapshot();
        }

        end() {
            if (!this.before) return;
            const before = this.before;
            this.before = null;
            if (JSON.stringify(before) === JSON.stringify(this.snapshot())) return;
            this.past.push(before);
            if (this.past.length > MOST_STEPS) this.past.shift();
            this.future = [];
            this.changed("view");
        }

        edit(change) {
            const alone = !this.before;
            this.begin();
            change();
            this.changed("state");
            if (alone) this.end();
        }

        /** Replace numbers of the selected person; the canvas becomes its pose source. */
        turn(numbers) {
            const person = this.current;
            const resolved = person && this.resolved(person);
            if (!resolved) return;
            this.edit(() => {
                const all = facesnap.pose.tidy(this.scene, {...resolved.numbers, ...numbers});
                person.state = {...person.state, source: "canvas", numbers: all, expression: mixOf(resolved)};
                person.problem = "";
            });
        }

        /** Replace the amounts (0..1) of some presets of the selected person. */
        express(amounts) {
            const person = this.current;
            const resolved = person && this.resolved(person);
            if (!resolved) return;
            this.edit(() => {
                this.turn({});
                person.state = {...person.state, expression: cleaned({...person.state.expression, ...amounts})};
            });
        }

        mirror() {
            const person = this.current;
            const resolved = person && this.resolved(person);
            if (!resolved) return;
            const {yaw, roll, x} = resolved.numbers;
            const other = {};
            for (const [name, amount] of Object.entries(mixOf(resolved) || {})) other[this.scene.mirrored[name]] = amount;
            this.edit(() => {
                this.turn({yaw: -yaw, roll: -roll, x: 1 - x});
                person.state = {...person.state, expression: cleaned(other)};
            });
        }

        front() {
            this.turn({yaw: 0, pitch: 0, roll: 0});
        }

        /** Take over the fitted pose and expression of a driver: "picture", "reference" or "init". */
        copy(name) {
            const person = this.current;
            const driver = person && (person.drivers || {})[name];
            if (!driver || driver.error) return;
            const height = person.state.framing === "true size" ? this.scene.mean_height : person.height;
            const numbers = facesnap.pose.ofDriver(driver, person.state.framing, this.size, height);
            this.edit(() => {
                const all = facesnap.pose.tidy(this.scene, {...person.state.numbers, ...numbers}); // its gain stays
                person.state = {...person.state, source: "canvas", numbers: all, expression: cleaned(driver.mix)};
                person.problem = "";
            });
        }

        /** Back to the reference photo's own pose. */
        reset(numbers) {
            this.edit(() => {
                for (const person of this.people.filter((one) => numbers.includes(one.number))) {
                    person.state = {...blank(), framing: person.state.framing};
                    person.problem = "";
                }
            });
        }

        undo() {
            this.travel(this.past, this.future);
        }

        redo() {
            this.travel(this.future, this.past);
        }

        travel(from, to) {
            this.end();
            if (!from.length) return;
            to.push(this.snapshot());
            for (const [number, state] of from.pop()) {
                const person = this.person(number);
                if (person) Object.assign(person, {state, problem: ""});
            }
            this.changed("state");
        }

        snapshot() {
            return this.people.map((one) => [one.number, one.state]);
        }
    }

    function blank() {
        return {source: "reference", framing: "keep framing", numbers: {}, expression: null};
    }

    /** The mix of presets that a resolved pose shows, or comes nearest to; null is neutral on the canvas. */
    function mixOf(resolved) {
        if (resolved.expression) return cleaned(resolved.expression);
        return resolved.driver ? cleaned(resolved.driver.mix) : null;
    }

    function cleaned(mix) {
        const shown = Object.entries(mix || {}).filter(([name, amount]) => amount > 0 && name !== "neutral");
        return shown.length ? Object.fromEntries(shown) : null;
    }

    facesnap.CanvasModel = CanvasModel;
})((window.facesnap = window.facesnap || {}));
