/** Stands where Daily's call object would be bundled; see build.mjs. Nothing of the voice page reaches it. */
export default {
  getCallInstance(): never {
    throw new Error("Daily's call object is not part of this page; pass a mediaManager to the transport.");
  },
};
