// What FaceSnap needs of the hosts' own page script: the root of the page, a call when the UI is there and 200 ms after
// it has changed, titles.
function gradioApp() {
    const app = document.getElementsByTagName("gradio-app")[0];
    return (app && app.shadowRoot) || app || document;
}

const uiLoaded = [];

function onUiLoaded(callback) {
    uiLoaded.push(callback);
}

const uiUpdated = [];

function onAfterUiUpdate(callback) {
    uiUpdated.push(callback);
}

document.addEventListener("DOMContentLoaded", () => {
    const observer = new MutationObserver(() => {
        if (!gradioApp().querySelector("#txt2img_prompt")) return;
        observer.disconnect();
        for (const [id, title] of Object.entries(window.standinTitles || {})) {
            const element = document.getElementById(id);
            if (element) element.title = title;
        }
        uiLoaded.forEach((callback) => callback());
    });
    observer.observe(gradioApp(), {childList: true, subtree: true});
    let after = null;
    new MutationObserver(() => {
        clearTimeout(after);
        after = setTimeout(() => uiUpdated.forEach((callback) => callback()), 200);
    }).observe(gradioApp(), {childList: true, subtree: true});
});

// AUTOMATIC1111's canvas-zoom-and-pan hides the picture below what is drawn on it.
onAfterUiUpdate(() => {
    for (const id of ["img2img_sketch", "img2maskimg", "inpaint_sketch"]) {
        const image = gradioApp().querySelector(`#${id} img:not(.forge-image)`);
        if (image) image.style.display = "none";
    }
});

// Forge's canvas: what is chosen is shown, and written into the text box of its layer.
document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches || !input.matches("input.forge-file-upload") || !input.files.length) return;
    const reader = new FileReader();
    reader.onload = () => {
        input.parentNode.querySelector("img").src = reader.result;
        const box = gradioApp().querySelector(`#${input.dataset.layer}.logical_image_background textarea`);
        box.value = reader.result;
        box.dispatchEvent(new Event("input", {bubbles: true}));
    };
    reader.readAsDataURL(input.files[0]);
});
