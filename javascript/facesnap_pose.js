// The recombination of facesnap/landmarks/recombination.py in the browser, from the scene of facesnap/webui/ui/scene.py.
// Frame: x right, y down, z away from the viewer; positive yaw turns the face to the picture's right, positive pitch
// makes it look up, positive roll tilts the top of the head to the picture's right. Degrees.

(function (facesnap) {
    "use strict";

    const POINTS = 72;
    const NUMBERS = ["yaw", "pitch", "roll", "x", "y", "size"];
    const DEFAULTS = {yaw: 0, pitch: 0, roll: 0, x: 0.5, y: 0.5, size: 0.5};
    const DECIMALS = {yaw: 1, pitch: 1, roll: 1, x: 4, y: 4, size: 4};
    const TRUE_SIZE = "true size";

    const radians = (degrees) => (degrees * Math.PI) / 180;
    const degrees = (angle) => (angle * 180) / Math.PI;

    /** The first two rows of R_roll R_pitch R_yaw. */
    function rotationRows(yaw, pitch, roll) {
        const [cy, sy] = [Math.cos(radians(yaw)), Math.sin(radians(yaw))];
        const [cp, sp] = [Math.cos(radians(pitch)), Math.sin(radians(pitch))];
        const [cr, sr] = [Math.cos(radians(roll)), Math.sin(radians(roll))];
        const nod = [[cy, 0, -sy], [sp * sy, cp, sp * cy]]; // the first two rows of R_pitch R_yaw
        return [
            nod[0].map((value, axis) => cr * value - sr * nod[1][axis]),
            nod[0].map((value, axis) => sr * value + cr * nod[1][axis]),
        ];
    }

    /** What the state of a person amounts to on a picture of `size` (W, H).
     *
     * state: {source, framing, numbers: some of NUMBERS and gain, expression: {preset: amount} or null}. Returns
     * {numbers: all of them, scale, driver, expression}, or null where the source gives nothing to draw.
     */
    function resolve(scene, person, state, size) {
        const driver = state.source === "canvas" ? null : (person.drivers || {})[state.source];
        if (!person.shape || (state.source !== "canvas" && (!driver || driver.error))) return null;
        const shorter = Math.min(size[0], size[1]);
        const height = state.framing === TRUE_SIZE ? scene.mean_height : person.height;
        const own = driver ? ofDriver(driver, state.framing, size, height) : DEFAULTS;
        const numbers = {...own, ...state.numbers};
        return {numbers, driver, expression: state.expression, scale: (numbers.size * shorter) / height};
    }

    /** A driver's pose on a picture of `size`, its own picture fitted inside and centred, as numbers. */
    function ofDriver(driver, framing, size, height) {
        const zoom = Math.min(size[0] / driver.size[0], size[1] / driver.size[1]);
        const place = [0, 1].map(
            (axis) => zoom * driver.translation[axis] + (size[axis] - zoom * driver.size[axis]) / 2
        );
        const scale = driver.scale * zoom * (framing === TRUE_SIZE ? 1 : driver.ratio);
        const [yaw, pitch, roll] = driver.angles;
        return {
            yaw, pitch, roll, x: place[0] / size[0], y: place[1] / size[1],
            size: (scale * height) / Math.min(size[0], size[1]),
        };
    }

    /** The 72 points of a resolved pose, [[x, y], ...] in pixels of the picture. */
    function points(scene, person, resolved, size) {
        const offset = expressionOffset(scene, resolved);
        const {yaw, pitch, roll, x, y} = resolved.numbers;
        const rows = rotationRows(yaw, pitch, roll);
        const place = [x * size[0], y * size[1]];
        const found = [];
        for (let n = 0; n < POINTS; n++) {
            const at = [0, 1, 2].map((axis) => person.shape[3 * n + axis] + offset[3 * n + axis]);
            found.push(
                rows.map((row, axis) =>
                    resolved.scale * (row[0] * at[0] + row[1] * at[1] + row[2] * at[2]) + place[axis])
            );
        }
        return found;
    }

    function expressionOffset(scene, resolved) {
        const {gain = 1} = resolved.numbers;
        const offset = new Array(3 * POINTS).fill(0);
        if (!resolved.expression) return resolved.driver ? resolved.driver.offset.map((value) => gain * value) : offset;
        for (const [name, amount] of Object.entries(resolved.expression)) {
            (scene.presets[name] || []).forEach((value, n) => { offset[n] += gain * amount * value; });
        }
        return offset;
    }

    /** Where the face looks: the tip of a unit vector out of the face, in the picture's plane. */
    function gaze({yaw, pitch, roll}) {
        const u = Math.sin(radians(yaw));
        const v = -Math.cos(radians(yaw)) * Math.sin(radians(pitch));
        const [cr, sr] = [Math.cos(radians(roll)), Math.sin(radians(roll))];
        return [cr * u - sr * v, sr * u + cr * v];
    }

    /** The yaw and pitch of a face that looks there, the inverse of `gaze`; what lies outside is brought to the rim. */
    function lookingAt([gx, gy], roll) {
        const [cr, sr] = [Math.cos(radians(roll)), Math.sin(radians(roll))];
        let [u, v] = [cr * gx + sr * gy, cr * gy - sr * gx];
        const length = Math.hypot(u, v);
        if (length > 1) [u, v] = [u / length, v / length];
        const depth = Math.sqrt(Math.max(1 - u * u, 0)); // cos(yaw)
        const pitch = depth > 1e-6 ? degrees(Math.asin(clamp(-v / depth, -1, 1))) : 0;
        return {yaw: degrees(Math.asin(clamp(u, -1, 1))), pitch};
    }

    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    /** Numbers within their ranges and rounded as their texts are; angles of roll go round. */
    function tidy(scene, numbers) {
        const found = {};
        for (const name of NUMBERS.filter((one) => numbers[one] !== undefined)) {
            let value = numbers[name];
            if (name === "roll") value = ((((value + 180) % 360) + 360) % 360) - 180;
            found[name] = Number(clamp(value, ...scene.ranges[name]).toFixed(DECIMALS[name])) + 0;
        }
        if (numbers.gain !== undefined) found.gain = numbers.gain;
        return found;
    }

    facesnap.pose = {
        NUMBERS, DEFAULTS, DECIMALS, resolve, ofDriver, points, rotationRows, gaze, lookingAt, clamp, tidy, degrees,
        radians,
    };
})((window.facesnap = window.facesnap || {}));
