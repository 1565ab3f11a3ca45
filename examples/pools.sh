#!/usr/bin/env bash
# A pool of users, and coupons for all of them at once.
. "$(dirname "$0")/common.sh"
as_admin
book=$(ask POST books '{"name":"Members","owner_id":"shop","max_assignments_per_user":3}' | field .book_id)
ask POST "books/$book/codes/generate" '{"count":100}'

# Users are accounts, or ids of your own.
pool=$(ask POST pools "{\"name\":\"Members $RANDOM$RANDOM\",\"user_ids\":[\"member-1\",\"member-2\"]}" | field .pool_id)
ask POST "pools/$pool/users" '{"user_ids":["member-3","member-4"]}'
ask DELETE "pools/$pool/users/member-4"
ask GET "pools/$pool"

# Two for each, or nothing for who cannot have both; then five among all, as evenly as it goes.
ask POST "pools/$pool/distribute" "{\"book_id\":\"$book\",\"mode\":\"equal\",\"coupons_per_user\":2}" -H "idempotency-key: members-$RANDOM$RANDOM"
shared=$(ask POST "pools/$pool/distribute" "{\"book_id\":\"$book\",\"mode\":\"random\",\"count\":5}")
[ "$(field .total_assigned <<<"$shared")" = 3 ] # each had room for one more
field .errors <<<"$shared"

ask DELETE "pools/$pool"
ask DELETE "books/$book"
