# shellcheck shell=bash
# Flags for the launchers beside this file, and a dry run; sourced, not run.
#
#   parse_flags "name zone slices=1" "$@"   sets $flag_name, ...; NAME=VALUE has a default, the others are required;
#                                           what stands after -- goes to the array REST, --dry-run sets DRY_RUN=1
#   step COMMAND ...                        runs it, or with --dry-run only prints it, quoted

fail() {
    echo "launch: $*" >&2
    exit 1
}

parse_flags() {
    local known=$1 flag name value
    shift
    DRY_RUN=0 REST=()
    for flag in $known; do
        name=${flag%%=*}
        if [ "$flag" != "$name" ]; then printf -v "flag_$name" %s "${flag#*=}"; fi
    done
    while [ $# -gt 0 ]; do
        case $1 in
            --) shift; REST=("$@"); break ;;
            --dry-run) DRY_RUN=1 ;;
            --*=*)
                name=${1%%=*} name=${name#--} value=${1#*=}
                case " $known " in
                    *" $name "* | *" $name="*) printf -v "flag_$name" %s "$value" ;;
                    *) fail "there is no flag --$name; known: $(list_flags "$known")" ;;
                esac
                ;;
            *) fail "$1 is not a flag; write --NAME=VALUE, and what crate-jax is to do after --" ;;
        esac
        shift
    done
    for flag in $known; do
        name=flag_${flag%%=*}
        [ -n "${!name+set}" ] || fail "--${flag%%=*} is missing; flags: $(list_flags "$known")"
    done
}

list_flags() {
    local flag list=()
    for flag in $1; do
        case $flag in
            *=*) list+=("[--$flag]") ;;
            *) list+=("--$flag=...") ;;
        esac
    done
    echo "${list[*]} [--dry-run]"
}

# Words as one line that a shell reads back as the same words; plain words stay as they are.
quoted() {
    local word line=()
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then line+=("$word"); else line+=("$(printf %q "$word")"); fi
    done
    echo "${line[*]}"
}

step() {
    if [ "$DRY_RUN" -eq 1 ]; then quoted "$@"; else "$@"; fi
}
