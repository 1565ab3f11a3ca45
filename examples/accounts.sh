#!/usr/bin/env bash
# Accounts: one's own, and everybody's.
. "$(dirname "$0")/common.sh"
email="ann-$RANDOM$RANDOM@example.com"

ask POST auth/register "{\"name\":\"Ann\",\"email\":\"$email\",\"password\":\"correct horse\"}"
token=$(sign_in "$email" 'correct horse')
ask GET auth/me
ask PUT auth/me '{"name":"Ann B."}'
ask POST auth/change-password '{"current_password":"correct horse","new_password":"battery staple"}'
token=$(sign_in "$email" 'battery staple')
id=$(ask GET users/me | field .user_id)

as_admin
ask GET "auth/admin/users?role=user&limit=10"
ask GET "users/search/by-email?email=$email"
ask PATCH "auth/admin/users/$id" '{"role":"viewer","reason":"looks after tonight'\''s sale"}'
ask PATCH "auth/admin/users/$id" '{"is_active":false}'
ask DELETE "auth/admin/users/$id?reason=left"
