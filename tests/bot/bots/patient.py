"""The greeter, except that it outlives its client: nobody's hang-up ends it."""

import greeter
from pipecat.pipeline.worker import PipelineWorker


class Patient(PipelineWorker):
    async def cancel(self, *, reason=None):
        if reason is not None:
            await super().cancel(reason=reason)


greeter.PipelineWorker = Patient
bot = greeter.bot
