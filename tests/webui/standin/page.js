// What the pose canvas needs of the hosts' own page script: the root of the page, and a call when the UI is there.
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
        uiLoaded.forEach((callback) => callback());
    });
    observer.observe(gradioApp(), {childList: true, subtree: true});
});
