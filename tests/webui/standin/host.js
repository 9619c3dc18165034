// What both hosts offer to extensions' scripts.
const standinLoaded = [];
const standinUpdated = [];

function gradioApp() {
    const apps = document.getElementsByTagName('gradio-app');
    const app = apps.length ? apps[0] : document;
    if (app !== document) app.getElementById = (id) => document.getElementById(id);
    return app.shadowRoot ? app.shadowRoot : app;
}

function onUiLoaded(callback) { standinLoaded.push(callback); }
function onUiUpdate(callback) { standinUpdated.push(callback); }
function onAfterUiUpdate(callback) { standinUpdated.push(callback); }
function onOptionsChanged() {}

function updateInput(target) {
    target.dispatchEvent(new Event('input', {bubbles: true}));
}

document.addEventListener('DOMContentLoaded', () => {
    let ready = false;
    new MutationObserver((records) => {
        if (!ready && document.querySelector('#txt2img_prompt')) {
            ready = true;
            for (const [id, title] of Object.entries(window.standinTitles)) {
                const element = document.getElementById(id);
                if (element) element.title = title;
            }
            standinLoaded.forEach((callback) => callback());
        }
        if (ready) standinUpdated.forEach((callback) => callback(records));
    }).observe(document.documentElement, {childList: true, subtree: true});
});
