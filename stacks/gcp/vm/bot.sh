#!/bin/sh
# Runs this VM's one bot, and notes how it ended. Its unit then powers the VM off.
#
# It needs only what Container-Optimized OS has: a shell, curl, sed, base64, iptables and Docker.
set -eu
. "${SWITCHBOARD_SETTINGS:-/etc/switchboard/settings}"

fail() {
    echo "switchboard: $1" >&2
    exit 1
}

metadata() {
    curl -sS --fail --retry 10 --retry-delay 1 --retry-connrefused --max-time 10 \
        -H 'Metadata-Flavor: Google' "$METADATA/$1"
}

# The bot's user reads these files once, and deletes them.
umask 077
rm -rf "$RUN"
mkdir -p "$RUN/bot" "$RUN/docker"
metadata attributes/switchboard-command >"$RUN/bot/command.json" || fail 'the VM has no metadata switchboard-command'
metadata attributes/switchboard-variables >"$RUN/bot/variables.json" || fail 'the VM has no metadata switchboard-variables'
printf '{}' >"$RUN/bot/secrets.json"

if [ -n "$REGISTRY$SECRET" ]; then
    token=$(metadata service-accounts/default/token | sed -n 's/.*"access_token": *"\([^"]*\)".*/\1/p')
    [ -n "$token" ] || fail 'the metadata server gives no access token for the service account of the VM'
fi
if [ -n "$SECRET" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$token" |
        curl -sS --fail --retry 5 --retry-delay 1 --max-time 10 --config - "$SECRETS/$SECRET:access" \
            >"$RUN/answer" || fail "the secret $SECRET cannot be read"
    sed -n 's/.*"data": *"\([^"]*\)".*/\1/p' "$RUN/answer" | base64 -d >"$RUN/bot/secrets.json"
    rm "$RUN/answer"
    [ -s "$RUN/bot/secrets.json" ] || fail "the secret $SECRET is empty"
fi
if [ -n "$REGISTRY" ]; then
    printf '%s' "$token" |
        docker --config "$RUN/docker" login -u oauth2accesstoken --password-stdin "https://$REGISTRY" >/dev/null ||
        fail "the registry $REGISTRY refuses the service account of the VM"
fi
pulled=''
for pause in 1 3 0; do
    if docker --config "$RUN/docker" pull -q "$IMAGE" >/dev/null; then
        pulled=yes
        break
    fi
    sleep "$pause"
done
[ -n "$pulled" ] || fail "the image $IMAGE cannot be pulled"
rm -r "$RUN/docker"
token=''

# Neither the bot nor what it starts gets the VM's access token: of the metadata server only DNS is left.
if [ "$NETWORK" = host ]; then
    iptables -w -I OUTPUT -d 169.254.169.254 -p tcp ! --dport 53 -m owner --uid-owner "$USER_ID" -j REJECT
    iptables -w -I INPUT -p udp --dport "$UDP_PORTS" -j ACCEPT
else
    iptables -w -I DOCKER-USER -d 169.254.169.254 -p tcp ! --dport 53 -j REJECT
fi

cp "$START" "$RUN/bot/start.py"
chmod 0400 "$RUN/bot/"*
chown -R "$USER_ID:$USER_ID" "$RUN/bot"

status=0
# shellcheck disable=SC2086 # LOG is several words
docker run --name switchboard-bot --init --network "$NETWORK" --user "$USER_ID:$USER_ID" \
    --cap-drop ALL --security-opt no-new-privileges --pids-limit "$PIDS" \
    --memory "${MEMORY_MB}m" --memory-swap "${MEMORY_MB}m" $LOG \
    --label "agent=$AGENT" --label "vm=$(hostname)" \
    --mount "type=bind,source=$RUN/bot,target=/run/switchboard" \
    -e HOME=/tmp -e SWITCHBOARD_VARIABLES_FILE=/run/switchboard/variables.json \
    --entrypoint python "$IMAGE" -P /run/switchboard/start.py || status=$?

# The dispatcher reads it while the VM is there; without it the exit code stays unknown.
curl -sS --fail --retry 2 --retry-delay 1 --max-time 5 -X PUT -H 'Metadata-Flavor: Google' --data "$status" \
    "$METADATA/guest-attributes/switchboard/exit-code" || echo 'switchboard: the exit code was not noted' >&2
echo "switchboard: the bot exited with $status"
