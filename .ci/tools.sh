#!/bin/sh
# See that the compilers and emulators of the tests are there; install them
# where that is allowed, else name what is missing and fail.
set -eu

need="gcc:gcc clang:clang"
if [ "${SKIP_CROSS:-}" = 1 ]; then
    echo "SKIP_CROSS is set: THE TESTS ON OTHER PROCESSORS ARE LEFT OUT"
else
    for name in aarch64-linux-gnu arm-linux-gnueabihf riscv64-linux-gnu \
        s390x-linux-gnu; do
        need="$need $name-gcc:gcc-$name qemu-${name%%-*}:qemu-user"
    done
fi

missing=""
for pair in $need; do
    command -v "${pair%%:*}" >/dev/null && continue
    case "$missing " in
    *" ${pair##*:} "*) ;; # one package may hold several
    *) missing="$missing ${pair##*:}" ;;
    esac
done
python=${PYTHON:-python3}
"$python" -c "import ensurepip, venv" 2>/dev/null ||
    missing="$missing python3-venv"
"$python" -c "import os, sys, sysconfig
path = sysconfig.get_path('include')
sys.exit(not os.path.exists(path + '/Python.h'))" ||
    missing="$missing python3-dev"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
    exit 0
fi
echo "missing:$missing" >&2
echo "install them (Debian: sudo apt-get install$missing)," >&2
echo "or leave the foreign processors out with SKIP_CROSS=1 make test" >&2
exit 1
