// The texts of the controls "Pose values" ("yaw=20 x=0.5") and "Expression" ("smile:0.8+wink_left"), read and written
// as facesnap/webui/generation/controls.py and facesnap/settings/expressions.py do. A reader throws an Error with words for
// people.

(function (facesnap) {
    "use strict";

    const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
    const MOST = 1.5; // of an expression
    const TERM = /^([a-z][a-z0-9_]*)\s*(?::\s*(\d+(?:\.\d*)?|\.\d+)\s*)?$/;

    /** "yaw=20 size=0.5" -> {yaw: 20, size: 0.5} */
    function readNumbers(text, ranges) {
        const found = {};
        for (const part of text.replace(/,/g, " ").split(/\s+/).filter(Boolean)) {
            const at = part.indexOf("=");
            const [name, value] = at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
            if (!ranges[name] || name in found) {
                throw new Error(`"${part}" is none of ${Object.keys(ranges).join(", ")}, each at most once`);
            }
            const [low, high] = ranges[name];
            const number = NUMBER.test(value) ? Number(value) : NaN;
            if (!(number >= low && number <= high)) {
                throw new Error(`${name} is "${value}", not a number from ${low} to ${high}`);
            }
            found[name] = number;
        }
        return found;
    }

    function writeNumbers(numbers) {
        return [...facesnap.pose.NUMBERS, "gain"].filter((name) => numbers[name] !== undefined)
            .map((name) => `${name}=${numbers[name]}`).join(" ");
    }

    /** "smile:0.8+wink_left" -> {smile: 0.8, wink_left: 1}; empty text -> null, the source's own. */
    function readExpression(text, names) {
        if (!text.trim()) return null;
        const found = {};
        for (const part of text.split("+")) {
            const match = TERM.exec(part.trim().replace(/([a-z])[ -](?=[a-z])/g, "$1_"));
            if (!match || !(names.includes(match[1]) || match[1] === "neutral") || match[1] in found) {
                throw new Error(`"${part.trim()}" is none of ${names.join(", ")}, each at most once`);
            }
            const amount = match[2] === undefined ? 1 : Number(match[2]);
            if (amount > MOST) throw new Error(`the amount of ${match[1]} is ${match[2]}, not 0 to ${MOST}`);
            found[match[1]] = amount;
        }
        return found;
    }

    /** null -> "", the source's own; nothing in it -> "neutral". */
    function writeExpression(mix) {
        if (!mix) return "";
        const terms = Object.keys(mix).sort().filter((name) => mix[name] > 0 && name !== "neutral");
        return terms.map((name) => (mix[name] === 1 ? name : `${name}:${mix[name]}`)).join("+") || "neutral";
    }

    facesnap.poseText = {readNumbers, writeNumbers, readExpression, writeExpression};
})((window.facesnap = window.facesnap || {}));
