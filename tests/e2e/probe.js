// Runs in the page before its own code, for tests only: it records what the page receives, sample by sample, and,
// where a test wants to speak on cue, stands in for the microphone. The page knows nothing of it.
(() => {
  const received = [];
  let rate = 0;

  async function record(track) {
    const reader = new MediaStreamTrackProcessor({ track: track.clone() }).readable.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rate = value.sampleRate;
      const samples = new Float32Array(value.numberOfFrames);
      value.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
      value.close();
      received.push({ at: performance.now(), samples });
    }
  }

  const connections = [];
  let closedAt;
  let onlyRelays = false;
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(configuration = {}, ...rest) {
      super(onlyRelays ? { ...configuration, iceTransportPolicy: "relay" } : configuration, ...rest);
      connections.push(this);
      this.addEventListener("track", ({ track }) => {
        if (track.kind === "audio") void record(track);
      });
    }
    close() {
      closedAt = performance.now();
      super.close();
    }
  };

  function encode(samples) {
    const bytes = new Uint8Array(samples.buffer);
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    return btoa(text);
  }

  let context;
  let microphone;
  window.probe = {
    /** What arrived since `since` (in the page's time): 16 bit samples in base64, and their rate. */
    heard(since) {
      const chunks = received.filter(({ at }) => at >= since);
      const samples = new Int16Array(chunks.reduce((sum, chunk) => sum + chunk.samples.length, 0));
      let offset = 0;
      for (const chunk of chunks) {
        for (const sample of chunk.samples) samples[offset++] = Math.max(-1, Math.min(1, sample)) * 32767;
      }
      return { rate, samples: encode(samples) };
    },
    now: () => performance.now(),
    /** When the page last closed a connection, and when the last answer from `url` had begun to arrive. */
    hungUp(url) {
      const answers = performance.getEntriesByName(new URL(url, location).href, "resource");
      return { left: closedAt, answered: answers.at(-1)?.responseStart };
    },
    /** As in a network that lets nothing through but what a TURN server relays. */
    onlyRelays() {
      onlyRelays = true;
    },
    /** By what each connection's sound gets to a TURN server: "udp", "tcp" or "tls"; "" where it goes to none. */
    async routes() {
      const routes = [];
      for (const connection of connections) {
        const stats = await connection.getStats();
        for (const pair of stats.values()) {
          if (pair.type !== "candidate-pair" || !pair.nominated) continue;
          routes.push(stats.get(pair.localCandidateId).relayProtocol ?? "");
        }
      }
      return routes;
    },
    /** The level of the last `milliseconds`, in dBFS. */
    level(milliseconds) {
      const since = performance.now() - milliseconds;
      let sum = 0;
      let count = 0;
      for (const { at, samples } of received) {
        if (at < since) continue;
        for (const sample of samples) sum += sample * sample;
        count += samples.length;
      }
      return count === 0 ? -120 : 10 * Math.log10(sum / count + 1e-12);
    },
    /** How many samples have arrived at all. */
    count: () => received.reduce((sum, { samples }) => sum + samples.length, 0),
    /** Replaces the microphone by one that is silent until told to speak. */
    scriptMicrophone() {
      navigator.mediaDevices.getUserMedia = async () => {
        context = new AudioContext();
        microphone = new MediaStreamAudioDestinationNode(context);
        // A stream without any signal sends no packets, which no microphone does: a hum at −90 dBFS.
        const hum = new OscillatorNode(context, { frequency: 100 });
        hum.connect(new GainNode(context, { gain: 10 ** (-90 / 20) })).connect(microphone);
        hum.start();
        return microphone.stream;
      };
    },
    /** Speaks through the scripted microphone; answers the page's time at which the speech begins. */
    say(base64, sampleRate) {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const samples = new Int16Array(bytes.buffer);
      const buffer = new AudioBuffer({ length: samples.length, sampleRate });
      buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(microphone);
      source.start();
      return performance.now();
    },
  };
})();
