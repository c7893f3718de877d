/** Replaces Daily's call object in the bundle; see build.mjs. The voice page never calls it. */
export default {
  getCallInstance(): never {
    throw new Error("Daily's call object is not part of this page; pass a mediaManager to the transport.");
  },
};
