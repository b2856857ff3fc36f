// Name of whoever ranks, where the server has no keys to tell.

const KEY = "headwater-rater";
export const PATTERN = "[A-Za-z0-9._@\\-]{1,64}";
let asked = false; // the server has no keys, so that the page may name the rater

export const askFor = (needed) => (asked = needed);
export const rater = () => (asked ? (localStorage.getItem(KEY) ?? "") : "");
export const setRater = (name) => (name ? localStorage.setItem(KEY, name) : localStorage.removeItem(KEY));
