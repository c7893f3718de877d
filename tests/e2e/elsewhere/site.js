// A site of somebody else's, on another origin than the dispatcher: Pipecat's JavaScript client as it comes from npm,
// used as its documentation does. It knows the address of `/start`, a public key where one is needed, and nothing else of
// Switchboard.
import { PipecatClient } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport, WavMediaManager } from "@pipecat-ai/small-webrtc-transport";

const audio = new Audio();
let client;

window.site = {
  /** Calls a bot. Answers what the client tells a site: that the bot is ready, or why there is no call. */
  async call(endpoint, key) {
    const told = { started: null, ready: null, error: null, shown: [] };
    client = new PipecatClient({
      // Of the two media managers that come with the transport, the one that loads no code of Daily's servers.
      transport: new SmallWebRTCTransport({ mediaManager: new WavMediaManager() }),
      callbacks: {
        // What is not played Chromium does not decode.
        onTrackStarted: (track, participant) => {
          if (participant?.local) return;
          audio.srcObject = new MediaStream([track]);
          void audio.play();
        },
        onBotStarted: (answer) => (told.started = answer.sessionId),
        onError: (message) => told.shown.push(message.data.message),
      },
    });
    try {
      told.ready = await client.startBotAndConnect({
        endpoint,
        headers: new Headers(key ? { Authorization: `Bearer ${key}` } : {}),
        requestData: { transport: "webrtc" },
      });
    } catch (error) {
      told.error = { message: error.message, status: error.status };
      await client.disconnect();
    }
    return told;
  },
  /** Connects as the development runner's examples do: with an offer, and no start before it. */
  async connect(endpoint) {
    const told = { ready: null, error: null };
    client = new PipecatClient({
      transport: new SmallWebRTCTransport({ mediaManager: new WavMediaManager() }),
      callbacks: {
        onTrackStarted: (track, participant) => {
          if (participant?.local) return;
          audio.srcObject = new MediaStream([track]);
          void audio.play();
        },
      },
    });
    try {
      told.ready = await client.connect({ webrtcRequestParams: { endpoint } });
    } catch (error) {
      told.error = error.message;
      await client.disconnect();
    }
    return told;
  },
  hangUp: () => client.disconnect(),
};
