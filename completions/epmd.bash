# Completion of epmd for bash, made of the table of options by tests/pages: change that, not this.

# The names that the epmd of this command line lists.
_epmd_names() {
    local line
    "${_epmd_ask[@]}" -names 2>/dev/null | while read -r line; do
        # Any user of this host may have given them.
        if [[ $line =~ ^name\ ([A-Za-z0-9_.-]+)\ at\ port\ [0-9]+$ ]]; then
            printf '%s\n' "${BASH_REMATCH[1]}"
        fi
    done
}

_epmd() {
    local word before behind i name offered=() _epmd_ask=("${COMP_WORDS[0]}") operands=no
    COMPREPLY=()
    # Words as the shell sees them: bash's own are broken at = : and @.
    local line=${COMP_LINE:0:COMP_POINT} words=()
    read -ra words <<<"$line"
    word=
    if [[ $line != *[[:space:]] ]]; then
        word=${words[-1]}
        unset 'words[-1]'
    fi
    before=
    ((${#words[@]} > 1)) && before=${words[-1]/#--/-}
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]/#--/-} in
            -port) [[ ${words[i + 1]-} =~ ^[0-9]+$ ]] && _epmd_ask+=(-port "${words[i + 1]}") ;;
            -doctor) operands=yes ;;
        esac
    done
    case $before in
        -config|-socket)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        -stop)
            mapfile -t offered < <(_epmd_names)
            ;;
        -since)
            offered=(today yesterday -1h)
            ;;
        -proto_dist)
            offered=(inet_tcp inet6_tcp)
            ;;
        -address|-port|-allow|-via|-packet_timeout|-delay_accept|-delay_write) return ;;
        *)
            if [[ $word == -* ]]; then
                offered=(-d -debug -address -port -daemon -relaxed_command_check -systemd -takeover -config -allow -no_sandbox -json -since -socket -proto_dist -mesh -via -check -print -packet_timeout -delay_accept -delay_write -names -started -dump -kill -stop -check_config -doctor -watch -status -refused -guard -help -version -takeover=force)
                [[ $word == --* ]] && offered=("${offered[@]/#-/--}")
            elif [[ $operands == yes ]]; then
                while read -r name; do
                    offered+=("$name@${HOSTNAME%%.*}")
                    [[ $HOSTNAME == *.* ]] && offered+=("$name@$HOSTNAME")
                done < <(_epmd_names)
            elif [[ -z $word ]]; then
                offered=(-d -debug -address -port -daemon -relaxed_command_check -systemd -takeover -config -allow -no_sandbox -json -since -socket -proto_dist -mesh -via -check -print -packet_timeout -delay_accept -delay_write -names -started -dump -kill -stop -check_config -doctor -watch -status -refused -guard -help -version -takeover=force)
            fi
            ;;
    esac
    # What stands before the last of bash's breaks is there already.
    behind=${word##*[=:@]}
    for name in "${offered[@]}"; do
        [[ $name == "$word"* ]] && COMPREPLY+=("${name#"${word%"$behind"}"}")
    done
}

complete -F _epmd epmd
