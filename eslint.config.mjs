// The WebUIs load javascript/*.js as plain scripts, in alphabetical order, into one global scope: each file is a function
// of its own, and what others may use is a member of the one global, `facesnap`.

const BROWSER = [
    "DOMPoint", "DataTransfer", "Element", "Event", "MutationObserver", "PerformanceObserver", "ResizeObserver", "URL",
    "cancelAnimationFrame", "clearTimeout", "confirm", "document", "localStorage", "performance",
    "requestAnimationFrame", "setTimeout", "window",
];
// Of the host's own script.js.
const HOST = ["gradioApp", "onAfterUiUpdate", "onUiLoaded", "onUiUpdate"];

const readonly = (names) => Object.fromEntries(names.map((name) => [name, "readonly"]));

const RULES = {
    "eqeqeq": "error",
    "no-const-assign": "error",
    "no-dupe-keys": "error",
    "no-fallthrough": "error",
    "no-implicit-globals": "error",
    "no-redeclare": "error",
    "no-restricted-globals": ["error", "event", "name"],
    "no-shadow": "error",
    "no-undef": "error",
    "no-unreachable": "error",
    "no-unused-vars": "error",
    "no-use-before-define": ["error", {functions: false, classes: false, variables: false}],
    "no-var": "error",
    "prefer-const": "error",
    "strict": ["error", "function"],
};

export default [
    {linterOptions: {reportUnusedDisableDirectives: "error"}},
    {
        files: ["javascript/*.js"],
        languageOptions: {
            ecmaVersion: 2022,
            sourceType: "script",
            // No timer of its own repeats: setInterval is not among the globals.
            globals: {...readonly([...BROWSER, ...HOST]), facesnap: "readonly"},
        },
        rules: RULES,
    },
    {
        // Stands for the host's script.js, whose functions are global.
        files: ["tests/webui/standin/*.js"],
        languageOptions: {ecmaVersion: 2022, sourceType: "script", globals: readonly(BROWSER)},
        rules: {
            ...RULES, "no-implicit-globals": "off", "strict": "off",
            "no-unused-vars": ["error", {vars: "local"}],
        },
    },
];
