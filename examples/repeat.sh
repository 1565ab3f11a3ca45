#!/usr/bin/env bash
# A network that loses answers: ask again under the same key.
. "$(dirname "$0")/common.sh"
as_admin
book=$(ask POST books '{"name":"Once","owner_id":"shop"}' | field .book_id)
ask POST "books/$book/codes/generate" '{"count":10}'

# The same request under the same key gets the same coupon, however often it is sent.
wanted="{\"book_id\":\"$book\",\"user_id\":\"customer-2\"}"
key="order-$RANDOM$RANDOM"
first=$(ask POST coupons/assign "$wanted" -H "idempotency-key: $key" | field '.coupons[0].code')
again=$(ask POST coupons/assign "$wanted" -H "idempotency-key: $key" | field '.coupons[0].code')
[ "$first" = "$again" ]

# Answered once PostgreSQL has it: nothing that dies afterwards takes it away.
ask POST coupons/assign "$wanted" -H 'durability: postgres' -D /dev/stderr 2> >(grep -i '^durability' >&2)
ask GET "books/$book/stats"
