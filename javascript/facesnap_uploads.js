// Gradio 3 drops the answer to an upload when any other event ends meanwhile: the box says "Uploading..." for ever, and
// no event tells of the photos. Where that has happened, the same photos are uploaded again.

(function() {
    "use strict";

    const BOX = /^facesnap_(txt2img|img2img)_p\d+_references$/;
    const LOOK = 300; // ms between looks
    const GRACE = 1500; // ms from the server's answer on, for the page to take it
    const TRIES = 3;

    const repeated = new WeakSet(); // our own events
    const chosen = new Map(); // box id -> {files, tries, since: when they were chosen}
    let answered = 0; // when the server last answered an upload, on the clock of performance.now()

    const boxOf = (element) => {
        for (let one = element; one instanceof Element; one = one.parentElement) {
            if (BOX.test(one.id)) return one;
        }
        return null;
    };

    function remember(event, list) {
        const box = boxOf(event.target);
        if (!box || !list?.length || repeated.has(event)) return;
        const watched = chosen.has(box.id);
        chosen.set(box.id, {files: [...list], tries: 0, since: performance.now()});
        if (!watched) setTimeout(look, LOOK, box);
    }

    // What is uploaded is a link in the box's list.
    const waits = (box) => box.querySelector(".file-preview") !== null && box.querySelector(".file-preview a") === null;

    async function look(box) {
        const choice = chosen.get(box.id);
        const dropped = waits(box) && answered > choice.since && performance.now() > answered + GRACE;
        const over = box.querySelector(".file-preview a") !== null || choice.tries >= TRIES;
        if (dropped && !over) {
            choice.tries += 1;
            await again(box, choice);
        }
        if (over) chosen.delete(box.id);
        else setTimeout(look, LOOK, box);
    }

    async function again(box, choice) {
        box.querySelector("button[aria-label='Clear']")?.click();
        await new Promise((done) => setTimeout(done, GRACE)); // clearing is an event too, whose end must not meet this upload
        const input = box.querySelector("input[type=file]");
        if (!input) return; // something else has been chosen
        const files = new DataTransfer();
        for (const file of choice.files) files.items.add(file);
        choice.since = performance.now();
        input.files = files.files;
        const change = new Event("change", {bubbles: true});
        repeated.add(change);
        input.dispatchEvent(change);
    }

    document.addEventListener("change", (event) => {
        if (event.target.type === "file") remember(event, event.target.files);
    }, true);
    document.addEventListener("drop", (event) => remember(event, event.dataTransfer?.files), true);
    new PerformanceObserver((seen) => {
        for (const entry of seen.getEntries()) {
            if (new URL(entry.name).pathname.endsWith("/upload")) answered = Math.max(answered, entry.responseEnd);
        }
    }).observe({type: "resource"});
})();
