#!/bin/sh
# Put the voice activity detector's model where the image looks for it, and load it with no network:
# models.sh onnx|torch MODELS
#
# The directory /build/silero-vad has the repository of that name.
set -eu
vad=$1
models=$2
mkdir -p /out/opt/models

case "$vad" in
onnx)
    # The model is inside Pipecat's wheel.
    python -P /build/check.py onnx
    ;;
torch)
    if [ "$models" != /opt/models ]; then
        echo "models are on the volume $models: none is put into the image"
        exit
    fi
    export TORCH_HOME=/out/opt/models/torch
    hub=$TORCH_HOME/hub
    mkdir -p "$hub"
    cp -r /build/silero-vad "$hub/snakers4_silero-vad_master"
    # torch.hub asks a person about a repository that is not on this list, and writes the list if there is none.
    echo snakers4_silero-vad > "$hub/trusted_list"
    python -P /build/check.py torch
    ;;
*)
    echo "VAD: '$vad' is not a detector; allowed: onnx, torch" >&2
    exit 1
    ;;
esac
