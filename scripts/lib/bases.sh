# shellcheck shell=bash
# The three images that all others are built on. Where a registry answers they are the official ones; where none does,
# equals are made here under the same names, out of Debian's packages and this machine's own toolchains.

debian_base=debian:trixie-slim
rust_base=rust:1.95-slim-trixie
go_base=golang:1.26-trixie

# provide_base NAME MAKE: what is there, else what a registry has, else what MAKE makes.
provide_base() {
    local name=$1 make=$2
    docker image inspect "$name" >/dev/null 2>&1 && return 0
    say "pulling $name"
    run_with_progress /dev/null timeout 300 docker pull "$name" && return 0
    say "no registry has it for us, so $name is made here"
    "$make" "$name"
}

make_debian_base() {
    local name=$1 folder
    want debootstrap "makes the base image" have debootstrap
    install_packages
    folder=$(mktemp --directory)
    chmod 0755 "$folder"
    quietly "debootstrap failed" "check the network, then start again" \
        as_root debootstrap --variant=minbase --include=ca-certificates trixie "$folder"
    trust_what_we_trust "$folder"
    # As in the official image: what apt keeps for next time would be in every layer.
    as_root tee "$folder/etc/apt/apt.conf.d/docker-clean" >/dev/null <<-'EOF'
		Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
		DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
	EOF
    as_root rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/* "$folder"/usr/share/{doc,man,locale,info}/*
    as_root tar --create --numeric-owner --directory "$folder" --exclude ./proc/* --exclude ./sys/* --exclude ./dev/* . |
        docker import --change 'CMD ["bash"]' --change 'LABEL rampart.base=made-here' - "$name" >/dev/null ||
        die "$name could not be imported" "is there room? docker system df"
    as_root rm -rf "$folder"
}

# The machine may trust an authority that Debian does not, and have settings for apt that its mirror needs.
trust_what_we_trust() {
    local folder=$1 settings
    as_root cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"
    for settings in /etc/apt/apt.conf.d/*; do
        grep -qE '^Acquire::' "$settings" || continue
        as_root cp "$settings" "$folder/etc/apt/apt.conf.d/"
    done
}

make_rust_base() {
    local name=$1 sysroot
    sysroot=$(cd "${root:?}" && rustc --print sysroot)
    # The layout of the official image, without rustup: there is one toolchain, and it is this one.
    tar --create --directory "$sysroot" --exclude ./share --exclude ./lib/rustlib/src \
        --transform 's,^\.,usr/local/cargo,' . |
        toolchain_image "$name" "gcc libc6-dev cmake make pkg-config" \
            'ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

make_go_base() {
    local name=$1 go
    command -v go >/dev/null || die "there is neither a registry nor a Go toolchain" "install Go 1.26 or give Docker a registry"
    go=$(go env GOROOT)
    tar --create --directory "$go" --exclude ./test --exclude ./doc --exclude ./api --transform 's,^\.,usr/local/go,' . |
        toolchain_image "$name" "git" \
            'ENV GOPATH=/go GOTOOLCHAIN=local PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

# toolchain_image NAME PACKAGES INSTRUCTION: the Debian base with packages and the archive on standard input.
toolchain_image() {
    local name=$1 packages=$2 instruction=$3 folder
    folder=$(mktemp --directory)
    cat >"$folder/toolchain.tar"
    cat >"$folder/Dockerfile" <<-EOF
		FROM $debian_base
		RUN apt-get update && apt-get install --yes --no-install-recommends $packages && rm -rf /var/lib/apt/lists/*
		ADD toolchain.tar /
		$instruction
		LABEL rampart.base=made-here
	EOF
    quietly "$name could not be built" "try it by hand: docker build $folder" docker build --quiet --tag "$name" "$folder"
    rm -rf "$folder"
}
