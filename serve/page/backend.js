/** The back end of this page: the server that it comes from. `sdedit page` writes another module in this place. */

export { serverBackend as makeBackend } from "./server.js";
