// The consent notice: once understood it stays away, also when the page that the server made at its start is reloaded.
(() => {
    const KEY = "facesnap-notice";

    function notices() {
        return [...gradioApp().querySelectorAll(".facesnap-consent")];
    }

    function version(notice) {
        return notice.querySelector("[data-version]")?.dataset.version;
    }

    window.facesnapUnderstood = () => {
        for (const notice of notices()) {
            localStorage.setItem(KEY, version(notice));
            notice.style.display = "none";
        }
        return [];
    };

    onUiLoaded(() => {
        for (const notice of notices()) {
            if (localStorage.getItem(KEY) === version(notice)) notice.style.display = "none";
        }
    });
})();
