/* job.c — from events on the engine's thread to records, and back to whoever waits for them.
 *
 * Invariants, asserted by number:
 *   J1  a choice is told no more than `most` tokens, a prompt no more than it has.
 *   J2  holders counts the parts with a choice that has not ended, and the reader until it leaves: who takes it to 0
 *       puts the job into the yard and touches it no more.
 *   J3  open is the sum of the choices without a finish. */
#include "serve/job.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The one placing function: over a dry arena it is the size, over a real one the job, zero but for the prompts. */
static tl_job *place(tl_arena *m, const tl_prompt *prompt, int n, const tl_request *a, int positions, int C) {
    const int choices = a->choices > 1 ? a->choices : 1;
    const size_t head = sizeof(tl_job) + (size_t)n * sizeof(tl_part);
    tl_job *job = tl__arena_take(m, 1, head);
    if (job) memset(job, 0, head);
    for (int i = 0; i < n; i++) {
        tl_part unplaced = {0}, *p = job ? &job->part[i] : &unplaced;
        const int left = positions - prompt[i].n, most = a->max_tokens < left ? a->max_tokens : left;
        int32_t *ids = TL_TAKE(m, int32_t, prompt[i].n);
        p->reply = TL_TAKE(m, tl_reply, choices);
        if (job) {
            memcpy(ids, prompt[i].ids, (size_t)prompt[i].n * sizeof *ids);
            memset(p->reply, 0, (size_t)choices * sizeof *p->reply);
        }
        p->prompt = ids;
        p->n_prompt = prompt[i].n;
        p->most = most > 0 ? most : 0;
        for (int c = 0; c < choices; c++) {
            tl_told *told = TL_TAKE(m, tl_told, p->most);
            tl_candidate *top = TL_TAKE(m, tl_candidate, (int64_t)p->most * a->alternatives);
            if (job) p->reply[c].told = told, p->reply[c].top = top;
        }
        if (a->prompt_logprobs) {
            p->read = TL_TAKE(m, tl_told, p->n_prompt);
            p->read_top = TL_TAKE(m, tl_candidate, (int64_t)p->n_prompt * a->alternatives);
        }
        if (a->embed) p->embedding = TL_TAKE(m, float, C);
        p->job = job;
    }
    return job;
}

int tl__job_open(tl_job **out, const tl_prompt *prompt, int n, const tl_request *asked, int positions, int C,
                 tl_job_yard *yard, tl_error *err) {
    tl_arena m = tl__arena_dry();
    place(&m, prompt, n, asked, positions, C);
    const size_t bytes = m.used_bytes;
    void *memory = aligned_alloc(TL_ARENA_ALIGN_BYTES, bytes);
    *out = NULL;
    if (!memory) return tl__fail(err, TL_ENOMEM, "not enough memory for an answer of %zu bytes", bytes);
    m = tl__arena_over(memory, bytes);
    tl_job *job = place(&m, prompt, n, asked, positions, C);
    if (pthread_mutex_init(&job->lock, NULL)) {
        free(memory);
        return tl__fail(err, TL_ENOMEM, "the system has no room for a lock");
    }
    job->yard = yard;
    job->choices = asked->choices > 1 ? asked->choices : 1;
    job->alternatives = asked->alternatives;
    job->C = C;
    job->n_parts = n;
    job->holders = n + 1;
    job->open = n * job->choices;
    *out = job;
    return 0;
}

/* ---- the engine's side ---- */

static void let_go(tl_job *job) {
    assert(job->holders > 0); /* J2 */
    const bool last = --job->holders == 0;
    tl_job_yard *yard = job->yard;
    pthread_mutex_unlock(&job->lock);
    if (!last) return;
    pthread_mutex_lock(&yard->lock);
    job->next = yard->done;
    yard->done = job;
    pthread_mutex_unlock(&yard->lock);
}

static void note(tl_told *to, tl_candidate *top, const tl_job *job, const tl_event *e) {
    *to = (tl_told){.id = e->id, .logp = e->logp, .n_top = (uint8_t)e->n_top, .thinking = e->thinking};
    assert(e->n_top <= job->alternatives);
    if (e->n_top > 0) memcpy(top, e->top, (size_t)e->n_top * sizeof *top);
}

static bool part_ended(const tl_part *p) {
    for (int c = 0; c < p->job->choices; c++)
        if (p->reply[c].finish == TL_FINISH_NONE) return false;
    return true;
}

static void on_event(void *user, const tl_event *e) {
    tl_part *p = user;
    tl_job *job = p->job;
    const int k = job->alternatives;
    tl_reply *r = &p->reply[e->choice];
    if (job->metrics) tl__metrics_event(job->metrics, e, &r->last_ns);
    pthread_mutex_lock(&job->lock);
    if (e->prompt_at >= 0) {
        assert(p->read && e->prompt_at < p->n_prompt); /* J1 */
        note(&p->read[e->prompt_at], p->read_top + (size_t)e->prompt_at * (size_t)k, job, e);
        p->n_read = e->prompt_at + 1;
    } else {
        r->text_bytes += (uint32_t)e->text_n;
        if (e->id >= 0) {
            assert(r->n < p->most); /* J1 */
            note(&r->told[r->n], r->top + (size_t)r->n * (size_t)k, job, e);
            r->told[r->n++].text_end = r->text_bytes;
        }
    }
    if (e->embedding && p->embedding) memcpy(p->embedding, e->embedding, (size_t)job->C * sizeof(float));
    if (e->finish != TL_FINISH_NONE) {
        r->by_text = e->finish == TL_FINISH_STOP && e->stop;
        r->usage = *e->usage;
        r->finish = e->finish;
        if (e->error) {
            size_t n = strnlen(e->error, sizeof r->error - 1);
            memcpy(r->error, e->error, n);
            r->error[n] = 0;
        }
        assert(job->open > 0); /* J3 */
        job->open--;
    }
    if (job->asleep && job->wake && (job->open == 0 || !job->whole)) {
        job->asleep = false;
        job->wake(job->of);
    }
    if (e->finish != TL_FINISH_NONE && part_ended(p)) let_go(job);
    else pthread_mutex_unlock(&job->lock);
}

/* ---- the server's side ---- */

/* Parts from `first` on never reached the batcher. */
static void give_up(tl_job *job, int first, tl_batcher *batcher) {
    for (int i = 0; i < first; i++) tl__batcher_cancel(batcher, job->part[i].request);
    pthread_mutex_lock(&job->lock);
    for (int i = first; i < job->n_parts; i++) {
        for (int c = 0; c < job->choices; c++) job->part[i].reply[c].finish = TL_FINISH_CANCELLED;
        job->open -= job->choices;
        job->holders--;
    }
    pthread_mutex_unlock(&job->lock);
}

int tl__job_submit(tl_job *job, tl_batcher *batcher, const tl_request *asked, tl_error *err) {
    tl_request r = *asked;
    r.event = on_event;
    for (int i = 0; i < job->n_parts; i++) {
        r.prompt = job->part[i].prompt;
        r.n_prompt = job->part[i].n_prompt;
        r.user = &job->part[i];
        int status = batcher ? tl__batcher_submit(batcher, &r, &job->part[i].request, err)
                             : tl__fail(err, TL_EBUSY, "the server is going down and begins nothing new");
        if (!status) continue;
        give_up(job, i, batcher);
        return status;
    }
    return 0;
}

/* Tokens told and choices ended: what a reader may have news of. */
static int told(const tl_job *job) {
    int sum = 0;
    for (int i = 0; i < job->n_parts; i++)
        for (int c = 0; c < job->choices; c++)
            sum += job->part[i].reply[c].n + (job->part[i].reply[c].finish != TL_FINISH_NONE);
    return sum;
}

bool tl__job_sleep(tl_job *job, bool whole, int seen, void (*sleep)(void *of)) {
    pthread_mutex_lock(&job->lock);
    job->asleep = job->open > 0 && (whole || told(job) <= seen);
    job->whole = whole;
    const bool asleep = job->asleep;
    if (asleep) sleep(job->of);
    pthread_mutex_unlock(&job->lock);
    return asleep;
}

int tl__job_look(tl_job *job, const tl_reply *r, tl_finish *finish) {
    pthread_mutex_lock(&job->lock);
    const int n = r->n;
    *finish = r->finish;
    pthread_mutex_unlock(&job->lock);
    return n;
}

void tl__job_leave(tl_job *job, tl_batcher *batcher) {
    pthread_mutex_lock(&job->lock);
    const bool runs = job->open > 0;
    job->wake = NULL;
    job->asleep = false;
    pthread_mutex_unlock(&job->lock);
    for (int i = 0; i < job->n_parts && runs; i++)
        if (job->part[i].request) tl__batcher_cancel(batcher, job->part[i].request);
    tl_job_yard *yard = job->yard;
    pthread_mutex_lock(&job->lock);
    let_go(job);
    tl__job_yard_sweep(yard);
}

void tl__job_yard_sweep(tl_job_yard *yard) {
    pthread_mutex_lock(&yard->lock);
    tl_job *job = yard->done;
    yard->done = NULL;
    pthread_mutex_unlock(&yard->lock);
    while (job) {
        tl_job *next = job->next;
        pthread_mutex_destroy(&job->lock);
        free(job);
        job = next;
    }
}
