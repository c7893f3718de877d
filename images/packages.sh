#!/bin/sh
# Install an image's packages into /opt/venv: packages.sh dispatcher, packages.sh bot TRANSPORT...
#
# Ours are pinned with their hashes, and no package is built from source. The bot's own may be what they like, and
# leave ours in their versions unless they ask for others; overrides.txt holds for them too.
set -eu
cd /build
image=$1
shift

pinned=
if [ "$image" = bot ]; then
    allowed=$(ls requirements-bot-*.txt | sed 's/requirements-bot-//; s/.txt//' | paste -sd ' ')
    for transport in "$@"; do
        if [ ! -e "requirements-bot-$transport.txt" ]; then
            echo "TRANSPORTS: '$transport' is not a transport; allowed: some of: $allowed" >&2
            exit 1
        fi
        pinned="$pinned requirements-bot-$transport.txt"
    done
    if [ -z "$pinned" ]; then
        echo "TRANSPORTS is empty; allowed: some of: $allowed" >&2
        exit 1
    fi
else
    pinned=requirements-$image.txt
fi

python3 -m venv --without-pip /opt/venv
# shellcheck disable=SC2086 # names without spaces
uv pip install --require-hashes --no-deps --only-binary :all: $(printf -- '-r %s ' $pinned)
for own in bot/requirements.txt bot/pyproject.toml; do
    if [ "$image" = bot ] && [ -e "$own" ] && grep -q '^[^#]' "$own"; then
        # shellcheck disable=SC2046,SC2086
        uv pip install --override overrides.txt $(printf -- '-c %s ' $pinned) -r "$own" 2> refused || {
            cat refused >&2
            # Where it asks for versions other than ours, it gets them: as on the local stack, of Pipecat those that work.
            grep -q 'No solution found' refused
            uv pip install --override overrides.txt -r "$own" "$(python3 -c 'import versions as v; print(v.PACKAGE + v.REQUIREMENT)')"
        }
    fi
done
if [ "$image" = bot ]; then
    # A version of Pipecat that was not tested here is said.
    /opt/venv/bin/python versions.py
fi
if [ "${VAD:-onnx}" = torch ]; then
    # From PyTorch's own index of builds without CUDA, which is 3 GB; there they are not in our lock. Where that is not
    # reached, from another index, or from the one of all packages: for x86-64 that one's have CUDA.
    case "${TORCH_INDEX:-}" in
    "") index='--torch-backend cpu' ;;
    default) index= ;;
    https://* | http://*) index="--index $TORCH_INDEX" ;;
    *)
        echo "TORCH_INDEX: '$TORCH_INDEX' is not an index; allowed: a URL, default, or nothing for PyTorch's own" >&2
        exit 1
        ;;
    esac
    # shellcheck disable=SC2046,SC2086
    uv pip install $index $(printf -- '-c %s ' $pinned) 'torch>=2.6,<3' 'torchaudio>=2.6,<3'
fi

# Our runtime lies in a directory of its own: its layer is not that of the packages.
echo /opt/switchboard > "$(/opt/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/switchboard.pth"
# Shells that activate an environment: in a container its PATH is set.
rm -f /opt/venv/bin/[Aa]ctivate* /opt/venv/.gitignore
