#!/bin/sh
# PRE script of every stage. DAGMan runs it on the access point, where mlaas-condor need not be
# installed: hence plain POSIX shell.
#
#   ready.sh STAGE STORE [PREVIOUS PREVIOUS_STORE]
#
# It lists in tasks/STAGE.todo the tasks whose output is missing. Output of another run on the same data
# is taken from the store by a hard link; output of the previous stage is put there the same way.
# "-" as a store means that the stage keeps none. Exit codes: 0 there is work, 7 there is none.
set -eu
cd "$(dirname "$0")"
stage=$1 store=$2 previous=${3:-} previous_store=${4:--}

# A unit of output is complete when it has its mark, NNNNN.ok, and every file that the mark lists
# ("bytes name") is there with that many bytes: a transfer that broke off is told from one that ended.
complete() {
    [ -s "$1/$2.ok" ] || return 1
    while read -r size name; do
        [ -f "$1/$name" ] && [ "$(wc -c < "$1/$name")" -eq "$size" ] || return 1
    done < "$1/$2.ok"
}

# Link one file under a temporary name, then rename: whoever looks sees all of it or nothing.
link() {
    temporary=$2.$$
    ln -f "$1" "$temporary" 2> /dev/null || cp "$1" "$temporary"
    mv -f "$temporary" "$2"
}

# The mark goes last.
share() { # from to unit
    mkdir -p "$2"
    while read -r size name; do
        link "$1/$name" "$2/$name"
    done < "$1/$3.ok"
    link "$1/$3.ok" "$2/$3.ok"
}

units() { # first last
    unit=$1
    while [ "$unit" -le "$2" ]; do
        printf '%05d\n' "$unit"
        unit=$((unit + 1))
    done
}

if [ -n "$previous" ] && [ "$previous_store" != - ]; then
    for mark in "$previous"/*.ok; do
        unit=${mark##*/}
        unit=${unit%.ok}
        if complete "$previous" "$unit" && ! complete "$previous_store" "$unit"; then
            share "$previous" "$previous_store" "$unit"
        fi
    done
fi

# merge knows how many chunks there are and what they need; until it has run the plan's list holds.
tasks=tasks/$stage.tasks
[ -f "merge/$stage.tasks" ] && tasks=merge/$stage.tasks

todo=tasks/$stage.todo
: > "$todo.new"
while read -r task first last rest; do
    missing=
    for unit in $(units "$first" "$last"); do
        complete "$stage" "$unit" && continue
        if [ "$store" != - ] && complete "$store" "$unit"; then
            share "$store" "$stage" "$unit"
        else
            missing=yes
        fi
    done
    [ -z "$missing" ] || echo "$task $first $last $rest" >> "$todo.new"
done < "$tasks"
mv "$todo.new" "$todo"
[ -s "$todo" ] || exit 7
