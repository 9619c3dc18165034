// What FaceSnap needs of the hosts' own page script: the root of the page, a call when the UI is there, titles.
function gradioApp() {
    const app = document.getElementsByTagName("gradio-app")[0];
    return (app && app.shadowRoot) || app || document;
}

const uiLoaded = [];

function onUiLoaded(callback) {
    uiLoaded.push(callback);
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
});
