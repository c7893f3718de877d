"""A bot for phones at any carrier, after Pipecat's telephony examples: it says back what it hears. A pressed
key interrupts it."""

from typing import Any

from pipecat.frames.frames import Frame, InputAudioRawFrame, InputDTMFFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.exotel import ExotelFrameSerializer
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner


class Echo(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        elif isinstance(frame, InputDTMFFrame):
            print(f"key {frame.button.value}", flush=True)
            await self.broadcast_interruption()
        await self.push_frame(frame, direction)


def serializer_of(carrier: str, call):
    stream, id = call["stream_id"], call["call_id"]
    match carrier:
        case "twilio":
            params = TwilioFrameSerializer.InputParams(auto_hang_up=False)
            return TwilioFrameSerializer(stream, id, params=params)
        case "telnyx":
            params = TelnyxFrameSerializer.InputParams(auto_hang_up=False)
            return TelnyxFrameSerializer(stream, call["outbound_encoding"], "PCMU", id, params=params)
        case "plivo":
            return PlivoFrameSerializer(
                stream, id, params=PlivoFrameSerializer.InputParams(auto_hang_up=False)
            )
        case _:
            return ExotelFrameSerializer(stream, id)


async def bot(runner_args: WebSocketRunnerArguments) -> None:
    carrier, call = await parse_telephony_websocket(runner_args.websocket)
    body: dict[str, Any] = runner_args.body or {}
    print(f"{carrier} {call['call_id']} from {body['from_number']} to {body['to_number']}", flush=True)
    transport = FastAPIWebsocketTransport(
        websocket=runner_args.websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            add_wav_header=False,
            serializer=serializer_of(carrier, call),
        ),
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000),
    )

    @transport.event_handler("on_client_disconnected")
    async def gone(_transport, _client) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
