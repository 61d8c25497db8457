# shellcheck shell=bash
# The locale that models of text ask for: ONNX Runtime's StringNormalizer wants en_US.UTF-8, also where no one speaks it.

have_locale() {
    locale -a 2>/dev/null | grep -qix 'en_US\.utf-\?8'
}

have_locale_sources() {
    have_locale || [[ -e /usr/share/i18n/locales/en_US ]]
}

# Where this machine has not got it, it is made in the cache, and LOCPATH tells glibc of it.
provide_locale() {
    have_locale && return 0
    local folder=$cache/locales
    if [[ ! -d $folder/en_US.UTF-8 ]]; then
        mkdir -p "$folder"
        rm -rf "$folder"/making
        quietly "the locale en_US.UTF-8 cannot be made" "install it by hand: localedef -i en_US -f UTF-8 en_US.UTF-8" \
            localedef --inputfile en_US --charmap UTF-8 --no-archive "$folder/making"
        mv "$folder/making" "$folder/en_US.UTF-8"
    fi
    export LOCPATH=$folder
}
