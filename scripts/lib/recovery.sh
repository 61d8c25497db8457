# shellcheck shell=bash
# What the steps of scripts/disaster-recovery have in common. The caller sets root to the checkout's folder.

# shellcheck source=scripts/lib/setup.sh
source "${root:?}/scripts/lib/setup.sh"
# shellcheck source=scripts/lib/settings.sh
source "$root/scripts/lib/settings.sh"
# shellcheck source=scripts/lib/docker.sh
source "$root/scripts/lib/docker.sh"
# shellcheck source=scripts/lib/bases.sh
source "$root/scripts/lib/bases.sh"
# shellcheck source=scripts/lib/preflight.sh
source "$root/scripts/lib/preflight.sh"

# bucket_copy FOLDER COMMAND: see scripts/lib/bucket-copy. The user's files, read with the group that may read MinIO's keys.
bucket_copy() {
    docker compose run --rm --no-deps -T --user "$(id -u):10021" --volume "$1:/copy" \
        --volume "$root/scripts/lib/bucket-copy:/usr/local/bin/bucket-copy:ro" --entrypoint bucket-copy minio "$2" </dev/null
}

own_storage_or_die() {
    local endpoint
    endpoint=$(setting RAMPART_S3_ENDPOINT)
    [[ $endpoint == https://minio:9000 ]] ||
        die "the object storage is $endpoint, not the platform's own" "copy its buckets with the tools of that server, see scripts/disaster-recovery/README.md"
}

# Whether a node of the database has ever had data here: from then on the bucket is written to. Compose makes volumes before they are used.
database_has_started() {
    local node volume content
    for node in detektor-postgres-master detektor-postgres-slave; do
        volume=$(our_volume "$node")
        [[ -n $volume ]] || continue
        content=$(timeout 60 docker run --rm --network none --read-only --volume "$volume:/data:ro" "${debian_base:?}" ls -A /data) ||
            die "the volume $volume cannot be looked into" "see why: docker run --rm --volume $volume:/data:ro $debian_base ls /data"
        [[ -z $content ]] || return 0
    done
    return 1
}

is_storage_up() {
    docker compose exec -T minio test -f /tmp/provided </dev/null >/dev/null 2>&1
}
