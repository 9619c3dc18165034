// Adapters that do not fit the loaded checkpoint stay in the list, greyed out: their titles say why.

(function () {
    "use strict";

    const UNFIT = / · (does not fit .+|cannot be used)$/;

    function mark(list) {
        for (const item of list.querySelectorAll("ul li")) {
            item.classList.toggle("facesnap-unfit", UNFIT.test(item.textContent.trim()));
        }
    }

    onUiLoaded(() => {
        for (const tab of ["txt2img", "img2img"]) {
            const list = gradioApp().querySelector(`#facesnap_${tab}_adapter`);
            // Gradio makes the items anew each time that the list opens.
            if (list) new MutationObserver(() => mark(list)).observe(list, {childList: true, subtree: true});
        }
    });
})();
