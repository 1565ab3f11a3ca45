#!/usr/bin/env bash
# A sale from its book to its last coupon.
. "$(dirname "$0")/common.sh"
as_admin

# A book with a policy, and codes in stock: a hundred that are drawn at random, one of your own.
book=$(ask POST books '{"name":"Black Friday","owner_id":"shop","max_assignments_per_user":2,"lock_seconds":120}' | field .book_id)
ask POST "books/$book/codes/generate" '{"count":100,"pattern":"BF-{}"}'
mine="BF-OWN-${RANDOM}${RANDOM}"
ask POST "books/$book/codes/upload" "{\"codes\":[\"$mine\"]}"

# The shop's server acts for its customers, with a key of its own.
admin=$token
made=$(ask POST api-keys '{"name":"shop"}')
token=$(field .key <<<"$made")

# Whoever comes gets a code from stock; a named one if you like.
code=$(ask POST coupons/assign "{\"book_id\":\"$book\",\"user_id\":\"customer-1\"}" | field '.coupons[0].code')
ask POST "coupons/assign/$mine" '{"user_id":"customer-1"}'

# At the till: lock it while the customer pays, then redeem it with the token of the lock.
lock=$(ask POST "coupons/lock/$code" '{"user_id":"customer-1"}' | field .lock_token)
redemption=$(ask POST "coupons/redeem/$code" "{\"user_id\":\"customer-1\",\"lock_token\":\"$lock\",\"metadata\":{\"order\":4711}}" | field .redemption_id)

# The order is cancelled: the redemption is rolled back, once. A lock can be ended, too.
ask POST "redemptions/$redemption/rollback" '{}'
ask POST "coupons/lock/$code" '{"user_id":"customer-1"}'
ask POST "coupons/unlock/$code" '{"user_id":"customer-1"}'
ask GET users/customer-1/coupons

# An administrator puts a coupon back into stock, looks at the numbers, and ends key and book.
token=$admin
ask POST "coupons/release/$code" '{}'
ask GET "books/$book/stats"
ask GET "books/$book/redemption-history"
ask DELETE "api-keys/$(field .key_id <<<"$made")"
ask DELETE "books/$book"
