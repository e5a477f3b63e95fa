# Builds programs from Go modules into a cache, for build-api-server and build-cluster.

go="$(command -v go || true)"
if [ -z "$go" ] && [ -x /usr/local/go/bin/go ]; then go=/usr/local/go/bin/go; fi

# Leaves the script where its programs can't be built. $1: the option of the script, $2: why they
# are missing and what to do. `--found` and no Go are errors, but for `--optional`.
give_up() {
    echo "$2" >&2
    [ "$1" = --optional ] && exit 0
    exit 1
}

# Locks a folder for as long as the script runs, so that two builds don't meet in it.
lock() {
    mkdir -p "$1"
    exec 9>"$1/.building"
    flock --nonblock 9 || { echo "Waiting for another build in $1" >&2 && flock 9; }
}

# Reports how far a build is every 15 seconds, and passes on what is not the name of a package.
show_progress() {
    local line packages=0 modules=0 started=$SECONDS shown=$SECONDS
    while IFS= read -r line; do
        case "$line" in
            "go: downloading "*) modules=$((modules + 1)) ;;
            *[!a-zA-Z0-9_./~+-]*) echo "$line" ;;
            *) packages=$((packages + 1)) ;;
        esac
        if [ $((SECONDS - shown)) -ge 15 ]; then
            shown=$SECONDS
            echo "  $1: $modules modules downloaded, $packages packages compiled, $((SECONDS - started)) s"
        fi
    done
}

# $1: folder of the module, $2: the program to write, $3: its package, $4: flags of the linker.
# The program gets its name when it is complete, so that an interrupted build leaves none.
build() {
    local partial
    partial="$(dirname "$2")/.$(basename "$2")"
    (cd "$1" && nice -n 10 env CGO_ENABLED=0 "$go" build -v -buildvcs=false -trimpath -ldflags "${4:--s -w}" -o "$partial" "$3" 2>&1) \
        | show_progress "$(basename "$2")" >&2 || return
    mv "$partial" "$2"
}
