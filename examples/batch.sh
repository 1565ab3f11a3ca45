#!/usr/bin/env bash
# Many assignments in one request, a large stock made by a job, and what the numbers say afterwards.
. "$(dirname "$0")/common.sh"
as_admin
book=$(ask POST books '{"name":"In numbers","owner_id":"shop","max_assignments_per_user":1}' | field .book_id)

# More than 10,000 codes are a job.
job=$(ask POST "books/$book/codes/generate" '{"count":20000}' | field .job_id)
ask GET "jobs/$job/events" >/dev/null
[ "$(ask GET "jobs/$job" | field .state)" = done ]

# Up to 1,000 items, each decided and answered by itself: the third is over the limit per user.
items=$(printf '{"book_id":"%s","user_id":"%s","key":"%s"},' "$book" customer-1 "n1-$book" "$book" customer-2 "n2-$book" "$book" customer-2 "n3-$book")
batch=$(ask POST coupons/assign:batch "{\"items\":[${items%,}]}")
[ "$(field .assigned_count <<<"$batch") $(field .refused_count <<<"$batch")" = '2 1' ]
field '.results[2].problem.code' <<<"$batch"

# Now, minute by minute, and since the book was made.
ask GET "books/$book/stats"
ask GET "books/$book/stats/timeline?step=hour" | field '.points.at(-1)'
ask GET "books/$book/stats/totals"
ask GET "stats/timeline?step=day" | field '.points.at(-1)'
ask DELETE "books/$book"
