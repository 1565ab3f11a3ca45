/**
 * Every expected "no" of this service, once: its stable `code`, HTTP status, title, and a `detail`
 * that says what to do next. Lua replies, TypeScript refusals and the OpenAPI document all use
 * these codes; README's problems table is tested against this one.
 * `{name}` in a detail is filled in from the problem's values.
 */
export const table = {
  // The request itself
  'invalid-request': [
    422,
    'Invalid request',
    'Correct the fields named in `errors` and send it again.',
  ],
  'malformed-json': [
    400,
    'Malformed JSON',
    'The body is not valid JSON. Send UTF-8 JSON with Content-Type: application/json.',
  ],
  'body-too-large': [
    413,
    'Body too large',
    'The body is over {limit} bytes. Send less, or split it into several requests.',
  ],
  'unsupported-media-type': [
    415,
    'Unsupported media type',
    'Send the body as JSON with Content-Type: application/json.',
  ],
  'unsupported-file': [
    415,
    'Unsupported file',
    'Send CSV or NDJSON as the body, or as the one file of multipart/form-data; gzip is the one encoding.',
  ],
  'unusable-file': [
    422,
    'Unusable file',
    'Line {line}: {reason}. Nothing was imported: correct the file and send it again.',
  ],
  'upload-too-slow': [
    408,
    'Upload too slow',
    'Less than {bytes} bytes came in {seconds} s. Nothing was imported: send it again, gzipped perhaps.',
  ],
  'upload-dropped': [
    408,
    'Upload given up',
    'Nothing was heard of this file for {seconds} s, so it was given up. Nothing was imported: send it again.',
  ],
  'transfers-busy': [
    503,
    'Too many files under way',
    'This process imports or exports as many files at once as it may. Try again in a moment.',
  ],
  'report-gone': [410, 'Report gone', 'It was kept for 7 days after the end of its job.'],
  'route-not-found': [
    404,
    'No such route',
    'Nothing answers at this path. See /docs for the ones that exist.',
  ],
  'method-not-allowed': [405, 'Method not allowed', 'This path answers {allow}.'],
  'invalid-cursor': [
    422,
    'Invalid cursor',
    'Take `starting_after` from `next_cursor` of the page before, unchanged.',
  ],
  // Who is asking
  unauthenticated: [
    401,
    'Not authenticated',
    'Send `Authorization: Bearer <token>`: a token of POST /api/v1/auth/login or an API key.',
  ],
  'invalid-credentials': [401, 'Wrong e-mail or password', 'Check both and try again.'],
  'account-inactive': [403, 'Account inactive', 'Ask an administrator to reactivate this account.'],
  forbidden: [403, 'Not allowed', 'This needs {needs}. Sign in as one, or ask an administrator.'],
  'email-taken': [400, 'E-mail already registered', 'Log in with it, or register another address.'],
  'user-exists': [
    400,
    'User already exists',
    'An account has this user_id. Leave user_id out to get a fresh one.',
  ],
  'own-account': [
    400,
    'Your own account',
    'Nobody changes their own role, or deactivates or deletes their own account: ask another administrator.',
  ],
  'last-admin': [
    409,
    'The last administrator',
    'No other administrator is active. Make or activate another one, then send it again.',
  ],
  'wrong-password': [
    400,
    'Current password is wrong',
    'Send the present password as `current_password`.',
  ],
  'too-many-requests': [
    429,
    'Too many requests',
    'More than {quota} in {seconds} seconds. Wait {retry_after} seconds.',
  ],
  'user-not-found': [404, 'No such user', 'Check the id or the e-mail address.'],
  'api-key-not-found': [404, 'No such API key', 'GET /api/v1/api-keys lists the keys there are.'],
  // Books, codes, jobs
  'book-not-found': [404, 'No such book', 'Check the book_id: GET /api/v1/books lists the books.'],
  'book-archived': [
    410,
    'Book archived',
    'Nothing can be done with its coupons any more; its history stays readable.',
  ],
  'book-inactive': [
    409,
    'Book inactive',
    'Assignments are switched off for this book (is_active: false). Holders may still redeem.',
  ],
  'book-not-open': [409, 'Book not open yet', 'Assignments begin at {opens_at}. Try again then.'],
  'book-closed': [409, 'Book closed', 'Assignments ended at {closes_at}.'],
  'book-expired': [410, 'Book expired', 'Its coupons could be used until {expiration_date}.'],
  'invalid-pattern': [
    422,
    'Invalid code pattern',
    'Use letters, digits, - and _, with {} at most once, and no reserved word or prefix.',
  ],
  'pattern-too-small': [
    422,
    'Pattern too small',
    'The pattern can make {possible} codes that are hard to guess and free, {count} were asked for. Lengthen it or widen the charset.',
  ],
  'codes-exist': [
    409,
    'Codes already exist',
    'Codes are unique in the whole installation. Remove {codes}, or use ?on_duplicate=skip.',
  ],
  'wrong-book-kind': [
    409,
    'Wrong kind of book',
    'A counter book makes its codes at assignment: use POST /api/v1/books/{book_id}/units instead.',
  ],
  'shard-not-found': [404, 'No such shard', 'GET /readyz lists the shards that there are.'],
  'fact-not-parked': [
    404,
    'No such parked fact',
    'No fact of this name is parked. GET /api/v1/ops/parked lists those that are.',
  ],
  'job-not-found': [404, 'No such job', 'Check the job_id.'],
  'wrong-job-state': [
    409,
    'Wrong state of the job',
    'It is {state}. What is queued, running or failed can be cancelled, what failed or was cancelled be done again.',
  ],
  'too-many-streams': [
    503,
    'Too many event streams',
    'This process serves {limit} of them, which is all it does. Ask GET /api/v1/jobs/{job_id} now and then instead.',
  ],
  'operation-not-found': [
    404,
    'No such operation',
    'Take the URL from the answer that told it, and ask as whoever got that answer.',
  ],
  // Pools
  'pool-not-found': [404, 'No such pool', 'Check the pool_id: GET /api/v1/pools lists the pools.'],
  'pool-name-taken': [
    409,
    'Name of a pool taken',
    'Another pool is called so: choose another name.',
  ],
  'pool-full': [409, 'Pool full', 'A pool has {limit} users at most. Make another one.'],
  'pool-empty': [400, 'Pool has no users', 'Add users to the pool first.'],
  'pool-inactive': [
    409,
    'Pool inactive',
    'Distributions to this pool are switched off (is_active: false).',
  ],
  // Coupons
  'coupon-not-found': [
    404,
    'No such coupon',
    'Check the code, and that you act for the user it is assigned to.',
  ],
  'coupon-redeemed': [
    409,
    'Coupon redeemed',
    'It has no redemptions left. An administrator can roll one back.',
  ],
  'coupon-locked': [
    409,
    'Coupon locked',
    'It is locked until {locked_until}. Send its `lock_token`, unlock it, or wait.',
  ],
  'lock-required': [
    409,
    'Lock required',
    'This book redeems locked coupons only: lock it first and send the `lock_token`.',
  ],
  'lock-expired': [
    409,
    'Lock expired',
    'That lock is over. Lock the coupon again and use the new `lock_token`.',
  ],
  'redemption-limit': [
    409,
    'Redemption limit reached',
    'This user may redeem this coupon {limit} times and has done so.',
  ],
  'assignment-limit': [
    409,
    'Assignment limit reached',
    'This user holds {held} coupons of this book; {limit} are allowed.',
  ],
  'already-assigned': [
    409,
    'Already assigned to this user',
    'This user holds that coupon already: lock or redeem it.',
  ],
  'sold-out': [
    409,
    'Sold out',
    'The book has {left} coupons left, fewer than were asked for. Nothing was assigned.',
  ],
  'coupon-in-use': [
    409,
    'Coupon in use',
    'It has redemptions. Roll them back before you release or void it.',
  ],
  'coupon-void': [
    409,
    'Coupon void',
    'It was taken out of circulation for good. Nothing can be done with it any more.',
  ],
  'redemption-not-found': [
    404,
    'No such redemption',
    'Check the redemption_id: GET /api/v1/books/{book_id}/redemption-history lists them.',
  ],
  'already-rolled-back': [
    409,
    'Already rolled back',
    'A redemption can be rolled back once, and this one was.',
  ],
  // Repeats and the machine room
  'idempotency-key-reused': [
    422,
    'Idempotency-Key reused',
    'This key came with another body before. Use a fresh key for a new request.',
  ],
  'intake-stopped': [
    503,
    'Intake stopped',
    'An operator has stopped intake, of everything or of this book. Try again after it resumes.',
  ],
  backlog: [503, 'Backlog', 'The ledger is behind. Try again in a moment.'],
  'not-ready': [
    503,
    'Not ready',
    'The service cannot vouch for an answer now. Try again in a moment; /readyz says why.',
  ],
  'outcome-unknown': [
    503,
    'Outcome unknown',
    'The reply was lost. Ask `operation` what became of it, repeat with the same Idempotency-Key, or read back what is there.',
  ],
  'not-in-force': [
    503,
    'Recorded, not in force yet',
    'PostgreSQL has it and Redis gets it as soon as it can. Do not send it again: read it back in a moment.',
  ],
  'not-durable': [
    503,
    'Not durable',
    'Redis lost this before the ledger had it: it did not happen. It is safe to send the request again.',
  ],
  'internal-error': [500, 'Internal error', 'This is our mistake. Report the request_id.'],
} as const satisfies Record<string, readonly [status: number, title: string, detail: string]>
