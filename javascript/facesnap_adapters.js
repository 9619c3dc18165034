// The list of adapters: it follows the checkpoint that is chosen at the top of the page, and those that do not fit stay
// in it, greyed out: their titles say why.

(function (facesnap) {
    "use strict";

    const UNFIT = / · (does not fit .+|cannot be used)$/;
    // AUTOMATIC1111's and Neo's list at the top of the page; Forge's has no id. Elsewhere (the settings page) it holds
    // only once it is applied.
    const CHECKPOINT = "#quicksettings #setting_sd_model_checkpoint input, .model_selection input";

    /** The title of the checkpoint at the top of the page; "": the server knows. */
    facesnap.checkpoint = () => gradioApp().querySelector(CHECKPOINT)?.value || "";

    function mark(list) {
        for (const item of list.querySelectorAll("ul li")) {
            item.classList.toggle("facesnap-unfit", UNFIT.test(item.textContent.trim()));
        }
    }

    function refresh() {
        for (const tab of ["txt2img", "img2img"]) gradioApp().querySelector(`#facesnap_${tab}_refresh`)?.click();
    }

    onUiLoaded(() => {
        for (const tab of ["txt2img", "img2img"]) {
            const list = gradioApp().querySelector(`#facesnap_${tab}_adapter`);
            // Gradio makes the items anew each time that the list opens.
            if (list) new MutationObserver(() => mark(list)).observe(list, {childList: true, subtree: true});
        }
        // The page was made when the WebUI started, with the checkpoint of then.
        let seen = null;
        const follow = () => {
            const chosen = facesnap.checkpoint() || window.opts?.sd_model_checkpoint || "";
            if (chosen === seen) return;
            seen = chosen;
            refresh();
        };
        follow();
        onAfterUiUpdate(follow);
    });
})((window.facesnap = window.facesnap || {}));
