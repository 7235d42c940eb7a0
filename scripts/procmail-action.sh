#!/bin/bash
# procmail-action.sh [--own] ACTION STUDENT [PARTICIPANT]: what the procmail recipes of an existing backend call, with the
# mail on standard input. Stores the mail in the spool, durably; wodmail does the rest.
#
# Who sent it is told by the line `From …` in front of the mail, which procmail writes, else by $SENDER. With neither the
# sender is unknown, and wodmail obeys nobody unknown. `--own`, for calls by hand and never for a recipe, says that such a
# mail is this backend's own, from WODSENDER.
#
# The mail's own Subject is the command, whatever the arguments say: it is what the sender wrote and perhaps signed.
# Only a mail without a Subject gets one made of the arguments, when they are a command.
#
# Exit status: 0 stored, 65 empty input or no command, 75 everything else (Postfix tries again). A recipe needs `:0 w`
# and `:0 e` behind it to hand that to Postfix; procmail/README.md.

export LC_ALL=C

failed() {
    printf 'procmail-action.sh: %s\n' "$1" >&2
    exit "$2"
}

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")") || failed "can't tell where it is installed" 75
# shellcheck source=/dev/null
source "$here/wod.sh" || failed "no configuration; the mail was not stored" 75
[ -n "${WODSTATEDIR:-}" ] || failed "/etc/wod.sh is of an older backend; as root: wodmail config shell --output" 75
export SENDER="${SENDER-}"
if [ "${1-}" = --own ]; then
    shift
    SENDER=${SENDER:-${WODSENDER:-}}
fi

# The pipe's program in the checkout, or in the package that this script is part of; it runs with any Python.
if [ -r "$here/../wodmail/mail/pipe.py" ]; then
    pipe=(python3 -I "$here/../wodmail/mail/pipe.py")
elif [ -r "$here/../../mail/pipe.py" ]; then
    pipe=(python3 -I "$here/../../mail/pipe.py")
else
    pipe=(wodmail pipe)
fi

# Read the header: `head` as it came, `rest` without its Subject, `subject` the text of that; `ended` is the line, empty
# or the body's first, that ended it.
head=() rest=() ended=() subject="" last=other
while IFS= read -r line || [ -n "$line" ]; do
    text=${line%$'\r'}
    if [[ $text =~ ^[Ss][Uu][Bb][Jj][Ee][Cc][Tt][[:blank:]]*:(.*)$ ]]; then
        last=subject subject+=${BASH_REMATCH[1]}
    elif [[ $text =~ ^[!-9\;-~]+[[:blank:]]*: ]] || { [ "${#head[@]}" = 0 ] && [[ $text == "From "* ]]; }; then
        last=other
    elif [[ $text == [[:blank:]]* ]] && [ "${#head[@]}" != 0 ]; then
        [ "$last" = other ] || subject+=$text
    else
        ended=("$line")
        break
    fi
    head+=("$line")
    [ "$last" = subject ] || rest+=("$line")
done
[ $((${#head[@]} + ${#ended[@]})) != 0 ] || failed "the input is empty, there is no mail to store" 65
[ -n "$SENDER" ] || [[ ${head[0]-} == "From "* ]] ||
    printf 'procmail-action.sh: %s\n' "no line From before the mail and no \$SENDER: its sender is unknown" >&2

if [[ ! $subject =~ [^[:blank:]] ]]; then
    number='[1-9][0-9]{0,18}'
    words=("${1-}" "${2-}" ${3+"$3"})
    [[ $# -le 3 && ${words[0]^^} =~ ^(CREATE|CLEANUP|RESET|PURGE|PDF|WORD)$ &&
        ${words[1]} =~ ^$number(,$number)?$ && ${words[2]-0} =~ ^(0|$number)$ ]] ||
        failed "usage: procmail-action.sh [--own] ACTION STUDENT [PARTICIPANT] <MAIL (the mail has no Subject of its own)" 65
    head=("${rest[@]}" "Subject: ${words[*]}")
    [ "${#ended[@]}" != 0 ] && [ -z "${ended[0]%$'\r'}" ] || head+=("")
fi

{ printf '%s\n' "${head[@]}" "${ended[@]}" && cat; } | "${pipe[@]}" --spool "$WODSTATEDIR/spool"
status=("${PIPESTATUS[@]}")
case "${status[0]}:${status[1]}" in
    0:0) exit 0 ;;
    *:65) exit 65 ;;
    *) exit 75 ;;
esac
