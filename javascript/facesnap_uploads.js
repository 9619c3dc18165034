// Gradio 3 drops the answer to an upload when any other event ends meanwhile: the box says "Uploading..." for ever, and
// no event names the photos. Where that has happened, the same photos are uploaded again.

(function () {
    "use strict";

    const BOX = /^facesnap_(txt2img|img2img)_p\d+_references$/;
    const GRACE = 1500; // ms from the server's answer on, for the page to take it
    const TRIES = 3;

    const repeated = new WeakSet(); // our own events
    // box -> {files, tries, since: when their upload began, on the clock of performance.now(), or Infinity before that}
    const chosen = new Map();

    const boxOf = (element) => {
        for (let one = element; one instanceof Element; one = one.parentElement) {
            if (BOX.test(one.id)) return one;
        }
        return null;
    };

    // Watches only while photos are on their way.
    const answers = new PerformanceObserver((seen) => {
        for (const entry of seen.getEntries()) {
            if (!new URL(entry.name).pathname.endsWith("/upload")) continue;
            for (const [box, choice] of chosen) {
                if (entry.responseEnd > choice.since) setTimeout(check, GRACE, box, choice, choice.since);
            }
        }
    });

    function remember(event, list) {
        const box = boxOf(event.target);
        if (!box || !list?.length || repeated.has(event)) return;
        if (!chosen.size) answers.observe({type: "resource"});
        chosen.set(box, {files: [...list], tries: 0, since: performance.now()});
    }

    function forget(box) {
        chosen.delete(box);
        if (!chosen.size) answers.disconnect();
    }

    /** After an answer: the photos are links in the box's list by now, unless they were dropped. */
    async function check(box, choice, since) {
        if (chosen.get(box) !== choice || choice.since !== since) return; // there is a later upload
        const dropped = box.querySelector(".file-preview") !== null && box.querySelector(".file-preview a") === null;
        if (!dropped || choice.tries >= TRIES) return forget(box);
        choice.tries += 1;
        choice.since = Infinity;
        box.querySelector("button[aria-label='Clear']")?.click();
        await new Promise((done) => setTimeout(done, GRACE)); // clearing is an event too, whose end must not meet this upload
        if (chosen.get(box) !== choice) return;
        const input = box.querySelector("input[type=file]");
        if (input) uploadAgain(input, choice);
        else forget(box); // something else fills the box
    }

    function uploadAgain(input, choice) {
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
})();
