#!/bin/sh
# PRE script of every stage. DAGMan runs it on the access point, where mlaas-condor need not be
# installed: hence plain POSIX shell and awk.
#
#   ready.sh STAGE STORE [PREVIOUS PREVIOUS_STORE]
#
# It lists in tasks/STAGE.todo the tasks whose output is missing. Output of another run on the same data
# is taken from the store by a hard link; output of the previous stage is put there the same way.
# "-" as a store means that the stage keeps none. Exit codes: 0 there is work, 7 there is none, 9 the proxy
# with which the jobs would read is missing.
#
# Nothing here starts a program for each unit of output: there may be 100,000 of them.
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")"
stage=$1 store=$2 previous=${3:-} previous_store=${4:--}
work=tasks/.$stage.$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# List "bytes name" of all files in a folder.
sizes() {
    [ ! -d "$1" ] || (cd "$1" && find . -type f -exec wc -c {} +) | sed -n 's|^ *\([0-9]*\) \./|\1 |p'
}

# List the complete units of a folder, a line for each file: "unit name". A unit is complete when it has
# its mark, NNNNN.ok, and every file that the mark lists ("bytes name") is there with that many bytes: a
# transfer that broke off is told from one that ended.
complete() {
    sizes "$1" | awk -v folder="$1" '
        { name = substr($0, length($1) + 2); size[name] = $1 }
        name ~ /^[0-9]+\.ok$/ && $1 > 0 { marks[name] }
        END {
            for (mark in marks) {
                whole = 1; lines = ""
                unit = substr(mark, 1, length(mark) - 3)
                while ((getline line < (folder "/" mark)) > 0) {
                    bytes = line; sub(/ .*/, "", bytes)
                    name = substr(line, length(bytes) + 2)
                    if (!(name in size) || size[name] != bytes) whole = 0
                    lines = lines unit " " name "\n"
                }
                close(folder "/" mark)
                if (whole) printf "%s", lines
            }
        }' | sort
}

# Link the files of the units in list $3 that list $4 does not have from folder $1 to $2, the marks last:
# whoever finds a mark finds the rest. Where it cannot be done, a unit is as good as missing.
share() {
    awk 'FILENAME == ARGV[1] { has[$1]; next } !($1 in has)' "$4" "$3" > "$work/share"
    [ -s "$work/share" ] || return 0
    mkdir -p "$2" || return 0
    cut -d ' ' -f 2- "$work/share" | link "$1" "$2"
    cut -d ' ' -f 1 "$work/share" | uniq | sed 's/$/.ok/' | link "$1" "$2"
}

# Link the files named on standard input; where a link is not possible, copy under another name first.
link() {
    from=$1 awk '{ printf "\"%s/%s\"\n", ENVIRON["from"], $0 }' | xargs sh -c '
        to=$1
        shift
        ln -f "$@" "$to" 2> /dev/null && exit
        mkdir "$to/.$$" && cp "$@" "$to/.$$" && mv -f "$to/.$$"/* "$to"
        rm -rf "$to/.$$"' sh "$2" || :
}

# A name with a quote or a line break in it would be read as several, of files anywhere. Our stages write none:
# it is the work of the user's code, which runs in jobs and has no business here.
for folder in "$stage" ${previous:+"$previous"}; do
    [ ! -d "$folder" ] || find "$folder" -depth -name '*["[:cntrl:]]*' -exec rm -rf {} +
done

# The trainings are over: what a killed one brought back of its checkpoints is not needed any more, nor is a
# token that came from no file.
[ "$stage" != report ] || rm -f checkpoint.*/*.model checkpoint.*/*.json bearer.token

# What a training brings back replaces these, which HTCondor can only where they are of the account that it
# does it as: not of a service's, where that submits in the user's own name.
[ "$stage" != train ] || for file in checkpoint.*/README; do
    [ ! -f "$file" ] || { cp "$file" "$work/README" && mv -f "$work/README" "$file"; }
done

if [ -n "$previous" ] && [ "$previous_store" != - ]; then
    complete "$previous" > "$work/here"
    complete "$previous_store" > "$work/stored"
    share "$previous" "$previous_store" "$work/here" "$work/stored"
fi

complete "$stage" > "$work/here"
if [ "$store" != - ]; then
    complete "$store" > "$work/stored"
    share "$store" "$stage" "$work/stored" "$work/here"
    complete "$stage" > "$work/here"
fi

# What is there without being complete is done again. It goes first: HTCondor would write over it in place,
# and through a link into the store.
if [ -d "$stage" ]; then
    (cd "$stage" && find . -type f) | sed 's|^\./||' | awk -v here="$work/here" '
        BEGIN { while ((getline line < here) > 0) { split(line, part, " "); keep[part[1] ".ok"]; keep[substr(line, length(part[1]) + 2)] } }
        !($0 in keep)' | stage=$stage awk '{ printf "\"%s/%s\"\n", ENVIRON["stage"], $0 }' | xargs rm -f
fi

# merge knows how many chunks there are and what they need; until it has run the plan's list holds.
tasks=tasks/$stage.tasks
[ ! -f "merge/$stage.tasks" ] || tasks=merge/$stage.tasks

todo=tasks/$stage.todo
awk '
    FILENAME == ARGV[1] { done[$1 + 0]; next }
    { for (unit = $2; unit <= $3; unit++) if (!(unit in done)) { print; next } }
' "$work/here" "$tasks" > "$work/todo"
mv "$work/todo" "$todo"
[ -s "$todo" ] || exit 7

# Jobs whose proxy is missing when they start HTCondor would try again many times a second.
proxy=$(sed -n 's/^x509userproxy *= *//p' "$stage.sub" 2> /dev/null || :)
[ -z "$proxy" ] || [ -s "$proxy" ] || {
    echo "the proxy $proxy is not there" >&2
    exit 9
}
