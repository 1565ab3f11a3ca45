import type { Deps } from '../app.ts'
import { invalidPattern, isPattern } from '../codes.ts'
import {
  BookResponse,
  bookView,
  ChangeBookRequest,
  CreateBookRequest,
  readTimes,
  usual,
} from './book-view.ts'
import { byRequest, type Context, type Principal } from './context.ts'
import { readOnce, replayedHeader } from './effect.ts'
import { reason } from './ops.ts'
import { answer, noContent, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, listOf, page, queryFlag, strict, userId, uuid } from './schemas.ts'

const params = strict({ book_id: bookId })
const writers = ['admin', 'service'] as const

/** For the audit log. */
const deedOf = (
  c: Context,
  who: Principal,
  action: string,
  id: string,
  why: string | undefined,
) => ({ ...byRequest(c, who, why), action, target: `book:${id}` })

/** Books: made, read, changed and archived. Redis has every change before it is answered. */
export function bookRoutes(deps: Deps) {
  const { books } = deps

  return resource(deps, 'Books')
    .route(
      {
        method: 'post',
        path: ['/books', '/coupons'],
        summary: 'Make a book: a named set of codes with one policy',
        needs: writers,
        scope: 'books',
        body: CreateBookRequest,
        answers: { 201: BookResponse },
        problems: ['invalid-pattern', 'idempotency-key-reused', 'not-in-force'],
      },
      async (c, { body }, who) => {
        if (body.code_pattern && !isPattern(body.code_pattern))
          return problemResponse(c, invalidPattern('code_pattern'))
        const keyed = readOnce(c, who, 'create_book', '', body)
        if ('problem' in keyed) return problemResponse(c, keyed)
        const { reason: why, ...wanted } = body
        const made = {
          ...keyed,
          ...usual,
          owner_id: who.id,
          ...readTimes(wanted),
          created_by: who.actor,
        }
        const book = await books.create(made, ({ book_id }) =>
          deedOf(c, who, 'books.create', book_id, why),
        )
        if ('problem' in book) return problemResponse(c, book)
        return answer(c, 201, bookView(book), {
          Location: `/api/v1/books/${book.book_id}`,
          ...replayedHeader(book),
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/books',
        summary: 'List the books, newest first',
        needs: 'anyone',
        query: strict({
          owner_id: userId.optional(),
          is_active: queryFlag.optional(),
          archived: queryFlag.optional().openapi({ description: 'true: archived books too' }),
          ...page,
          starting_after: uuid
            .optional()
            .openapi({ description: '`next_cursor` of the page before' }),
        }),
        answers: { 200: listOf(BookResponse) },
        problems: ['invalid-cursor'],
      },
      async (c, { query }) => {
        const { starting_after: after, archived = false, ...filter } = query
        const rows = await books.list({ ...filter, archived, after })
        if ('problem' in rows) return problemResponse(c, rows)
        const data = rows.slice(0, query.limit).map(bookView)
        const has_more = rows.length > query.limit
        return answer(c, 200, {
          data,
          has_more,
          next_cursor: has_more ? data.at(-1)!.book_id : null,
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/books/{book_id}',
        summary: 'One book, archived or not',
        needs: 'anyone',
        params,
        answers: { 200: BookResponse },
        problems: ['book-not-found'],
      },
      async (c, { params }) => {
        const book = await books.get(params.book_id)
        return 'problem' in book ? problemResponse(c, book) : answer(c, 200, bookView(book))
      },
    )
    .route(
      {
        method: 'patch',
        path: '/books/{book_id}',
        summary: 'Change what is named, leave the rest; in force once it is answered',
        description:
          'max_redemptions without allow_multi_redemption sets the latter as for a new book.',
        needs: writers,
        scope: 'books',
        params,
        body: ChangeBookRequest,
        answers: { 200: BookResponse },
        problems: ['book-not-found', 'book-archived', 'invalid-pattern', 'not-in-force'],
      },
      async (c, { params, body: { reason: why, ...change } }, who) => {
        if (change.code_pattern && !isPattern(change.code_pattern))
          return problemResponse(c, invalidPattern('code_pattern'))
        const deed = { ...deedOf(c, who, 'books.update', params.book_id, why), detail: change }
        const book = await books.update(params.book_id, readTimes(change), deed)
        return 'problem' in book ? problemResponse(c, book) : answer(c, 200, bookView(book))
      },
    )
    .route(
      {
        method: 'delete',
        path: '/books/{book_id}',
        summary: 'Archive a book: no verb works any more, its history stays readable',
        description: 'There is no way back. Archiving an archived book again answers 204 as well.',
        needs: writers,
        scope: 'books',
        params,
        query: strict({ reason: reason.optional() }),
        answers: { 204: null },
        problems: ['book-not-found', 'not-in-force'],
      },
      async (c, { params, query }, who) => {
        const deed = deedOf(c, who, 'books.archive', params.book_id, query.reason)
        const book = await books.archive(params.book_id, deed)
        return 'problem' in book ? problemResponse(c, book) : noContent(c)
      },
    )
}
