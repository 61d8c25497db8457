# shellcheck shell=bash
# All of the set-up functions. The caller sets root to the checkout's folder.

# shellcheck source=scripts/lib/say.sh
source "${root:?}/scripts/lib/say.sh"
# shellcheck source=scripts/lib/progress.sh
source "$root/scripts/lib/progress.sh"
# shellcheck source=scripts/lib/cache.sh
source "$root/scripts/lib/cache.sh"
# shellcheck source=scripts/lib/rust.sh
source "$root/scripts/lib/rust.sh"
# shellcheck source=scripts/lib/packages.sh
source "$root/scripts/lib/packages.sh"
# shellcheck source=scripts/lib/python.sh
source "$root/scripts/lib/python.sh"
# shellcheck source=scripts/lib/onnxruntime.sh
source "$root/scripts/lib/onnxruntime.sh"
# shellcheck source=scripts/lib/locales.sh
source "$root/scripts/lib/locales.sh"
