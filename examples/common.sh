# What all examples begin with: `. "$(dirname "$0")/common.sh"`.
set -euo pipefail
api="${API:-http://127.0.0.1:8000}/api/v1"
token=

# A member of the JSON on stdin: field .book_id
field() { node -p "JSON.parse(require('fs').readFileSync(0, 'utf8'))$1"; }

# ask METHOD PATH [BODY] [more of curl]: prints the answer; ends the script if it is a refusal.
ask() {
  local method=$1 path=$2 body=${3:-}
  shift $(($# < 3 ? $# : 3))
  echo "> $method $path $body" >&2
  curl -sS --fail-with-body -X "$method" "$api/$path" ${token:+-H "authorization: Bearer $token"} \
    ${body:+-H 'content-type: application/json' -d "$body"} "$@"
  echo
}

sign_in() {
  ask POST auth/login "{\"email\":\"$1\",\"password\":\"$2\"}" | field .access_token
}
as_admin() { token=$(sign_in "${ADMIN_EMAIL:-admin@example.com}" "${ADMIN_PASSWORD:-admin123}"); }
