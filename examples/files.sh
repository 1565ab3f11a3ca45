#!/usr/bin/env bash
# Codes from a file into a book, and out again.
. "$(dirname "$0")/common.sh"
as_admin
book=$(ask POST books '{"name":"From a file","owner_id":"shop"}' | field .book_id)

# A header row with `code`; `max_redemptions` if codes have limits of their own; the rest is kept as metadata.
run=$RANDOM$RANDOM
file=$(mktemp)
trap 'rm -f "$file" "$file.gz"' EXIT
printf 'code,max_redemptions,campaign\nF-%s-1,1,spring\nF-%s-2,unlimited,spring\nnot a code,1,spring\n' "$run" "$run" >"$file"
gzip -k "$file"

# on_error=keep imports the good rows; the default refuses the whole file. A job does it: its events end with it.
job=$(ask POST "books/$book/imports?on_error=keep&on_duplicate=skip" '' -H 'content-type: application/gzip' --data-binary "@$file.gz" | field .job_id)
ask GET "jobs/$job/events"
ask GET "jobs/$job"
ask GET "imports/$job/report"
ask GET jobs

# Out again: coupons, assignments, redemptions or facts, as CSV or as lines of JSON.
ask POST "coupons/assign/F-$run-1" '{"user_id":"customer-1"}'
ask GET "books/$book/export/coupons"
ask GET "books/$book/export/assignments?format=ndjson&user_id=customer-1"
ask GET "books/$book/export/facts?state=assign"
# A download that broke goes on behind its last whole line, in a CSV without the names of the columns.
ask GET "books/$book/export/coupons?after=F-$run-1"
ask DELETE "books/$book"
