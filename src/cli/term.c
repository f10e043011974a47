#include "src/cli/term.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "src/cli/ascii.h"
#include "src/cli/signals.h"
#include "src/cli/width.h"
#include "src/cli/wrap.h"

#define LEAST_CELLS 8 /* of a bar that says something */

static struct {
    bool is_terminal[3];
    enum colour_mode colour;
    int verbosity;
    bool wraps;  /* term_wrap */
    bool dumb;   /* TERM says that nothing can be drawn over */
    bool ascii;  /* no UTF-8 */
    bool broken; /* stdout's reader went away */
} term;

bool term_claim_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        if (open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
            return false;
    }
    return true;
}

void term_init(enum colour_mode colour, int verbosity)
{
    const char *kind = getenv("TERM");
    for (int fd = 0; fd <= 2; fd++)
        term.is_terminal[fd] = isatty(fd) == 1;
    term.dumb = !kind || !*kind || strcmp(kind, "dumb") == 0;
    term.ascii = ascii_wanted();
    term.colour = colour;
    term.verbosity = verbosity;
}

bool term_stdin(void)
{
    return term.is_terminal[0];
}

bool term_stdout(void)
{
    return term.is_terminal[1];
}

bool term_stderr(void)
{
    return term.is_terminal[2];
}

bool term_colour(int fd)
{
    const char *no_color = getenv("NO_COLOR");
    if (term.colour != COLOUR_AUTO)
        return term.colour == COLOUR_ALWAYS;
    return fd >= 0 && fd <= 2 && term.is_terminal[fd] && !term.dumb && !(no_color && *no_color);
}

bool term_animates(void)
{
    return term.is_terminal[2] && !term.dumb && term.verbosity > QUIET;
}

bool term_draws(int fd)
{
    return fd >= 0 && fd <= 2 && term.is_terminal[fd] && !term.dumb;
}

bool term_ascii(void)
{
    return term.ascii;
}

bool term_reflows(void)
{
    const char *kind = getenv("TERM");
    bool screen = kind && strncmp(kind, "screen", 6) == 0;
    return !getenv("XTERM_VERSION") && !getenv("TMUX") && !screen && kind && strcmp(kind, "linux") != 0;
}

/* The window's size, zeros where nobody knows. */
static struct winsize window(void)
{
    struct winsize size = { 0 };
    for (int fd = 2; fd >= 0; fd--)
        if (term.is_terminal[fd] && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
            return size;
    return (struct winsize){ 0 };
}

/* The window's, else what the environment says, else `last_resort`. */
static int extent(int known, const char *name, int last_resort)
{
    const char *text = getenv(name);
    int n = text ? (int)strtol(text, NULL, 10) : 0;
    return known > 0 ? known : n > 0 && n < 10000 ? n : last_resort;
}

int term_columns(void)
{
    return extent(window().ws_col, "COLUMNS", 80);
}

int term_rows(void)
{
    return extent(window().ws_row, "LINES", 24);
}

static bool write_all(const char *bytes, size_t len, struct error *err)
{
    while (len > 0 && !term.broken) {
        ssize_t n = write(STDOUT_FILENO, bytes, len);
        if (n >= 0) {
            bytes += n;
            len -= (size_t)n;
        } else if (errno == EPIPE) {
            term.broken = true;
        } else if (errno == EINTR && signals_leave()) {
            return fail(err, ERR_INTERRUPTED, "interrupted while writing");
        } else if (errno != EINTR) {
            return fail(err, ERR_RUN, "standard output: cannot write: %s", strerror(errno));
        }
    }
    return !term.broken;
}

/* What of `text` the terminal understands, in *changed; as it is where everything is. */
static struct str understood(int fd, struct str text, struct buf *changed)
{
    if (!term.ascii || !term.is_terminal[fd])
        return text;
    ascii_add(changed, text);
    return changed->out_of_memory ? text : buf_str(changed);
}

bool out_write(const char *bytes, size_t len, struct error *err)
{
    struct buf changed = { 0 };
    struct str text = understood(STDOUT_FILENO, (struct str){ bytes, len }, &changed);
    bool ok = write_all(text.data, text.len, err);
    buf_release(&changed);
    return ok;
}

bool out_puts(const char *text, struct error *err)
{
    return out_write(text, strlen(text), err);
}

bool out_broken(void)
{
    return term.broken;
}

void err_write(const char *bytes, size_t len)
{
    struct buf changed = { 0 };
    struct str text = understood(STDERR_FILENO, (struct str){ bytes, len }, &changed);
    while (text.len > 0) {
        ssize_t n = write(STDERR_FILENO, text.data, text.len);
        if (n < 0 && errno == EINTR && !signals_leave())
            continue;
        if (n <= 0)
            break; /* nobody left to tell */
        text = (struct str){ text.data + n, text.len - (size_t)n };
    }
    buf_release(&changed);
}

void term_wrap(bool on)
{
    term.wraps = on;
}

void err_lines(struct str text)
{
    struct buf lines = { 0 };
    if (term.wraps && term.is_terminal[2])
        wrap_lines(&lines, text, max_of(term_columns() - 1, 8));
    if (lines.len && !lines.out_of_memory)
        text = buf_str(&lines);
    err_write(text.data, text.len);
    buf_release(&lines);
}

size_t term_escape(char *out, const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = c == 0xc2 && i + 1 < len && (unsigned char)text[i + 1] >= 0x80 &&
                  (unsigned char)text[i + 1] < 0xa0;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || c1) {
            static const char hex[] = "0123456789abcdef";
            if (c1)
                c = (unsigned char)text[++i];
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        } else {
            out[n++] = (char)c;
        }
    }
    return n;
}

bool term_escape_to(struct buf *out, const char *text, size_t len)
{
    char clean[4 * 256];
    for (size_t at = 0; at < len;) {
        size_t part = min_of(len - at, sizeof clean / 4 - 1);
        if (at + part < len && (unsigned char)text[at + part - 1] == 0xc2)
            part++; /* keep a C1 control together */
        buf_add(out, clean, term_escape(clean, text + at, part));
        at += part;
    }
    return !out->out_of_memory;
}

static struct termios released; /* the state to give back */
static bool held;

static void take_terminal(tcflag_t off)
{
    struct termios now;
    if (!term.is_terminal[0] || (!held && tcgetattr(STDIN_FILENO, &released) != 0))
        return;
    held = true;
    now = released;
    now.c_lflag &= ~off;
    now.c_cc[VMIN] = 1;
    now.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &now);
}

void term_hold(void)
{
    take_terminal(ECHO | ICANON);
}

void term_offer(void)
{
    take_terminal(ICANON);
}

void term_release(void)
{
    if (held)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &released);
    held = false;
}

static void (*room)(void *ctx);
static void *room_ctx;

void note_before(void (*make_room)(void *ctx), void *ctx)
{
    room = make_room;
    room_ctx = ctx;
}

/* The line of a job's progress that stands on the screen; a note takes its place, and what comes next
 * of the job draws it anew below. */
static const struct progress *drawn;

static void wipe_progress(void)
{
    if (drawn)
        err_write("\r\033[K", 4);
    drawn = NULL;
}

static void print_line(const char *format, va_list args)
{
    wipe_progress();
    if (room)
        room(room_ctx);
    char line[2048], clean[4 * sizeof line + 1];
    vsnprintf(line, sizeof line, format, args);
    size_t n = term_escape(clean, line, strlen(line));
    clean[n++] = '\n';
    err_lines((struct str){ clean, n });
}

void note(const char *format, ...)
{
    if (term.verbosity <= QUIET)
        return;
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
}

void note_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
}

static struct buf kept;

void note_later(const struct buf *lines)
{
    buf_add(&kept, buf_str(lines).data, lines->len);
}

void note_failure(const struct error *err)
{
    if (*err->text)
        note_error("tandem: %s", err->text);
    err_write(buf_str(&kept).data, kept.len);
    buf_release(&kept);
    if (err->code == ERR_INTERNAL)
        note_error("tandem: this is a mistake of the program: please report it, with this command and "
                   "what tandem --version prints (%s:%d)", err->file, err->line);
}

const char *human_bytes(double bytes, char *text, size_t size)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < ARRAY_LEN(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, size, unit && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

const char *human_time(double seconds, char *text, size_t size)
{
    long s = seconds < 1 ? 1 : (long)(seconds + 0.5);
    if (s < 60)
        snprintf(text, size, "%ld s", s);
    else if (s < 3600)
        snprintf(text, size, "%ld min %ld s", s / 60, s % 60);
    else
        snprintf(text, size, "%ld h %ld min", s / 3600, s / 60 % 60);
    return text;
}

void progress_line(char *line, size_t size, const struct progress *p, double done, double total,
                   double elapsed_s, int columns)
{
    double part = min_of(1, max_of(0, total > 0 ? done / total : 0));
    double rate = elapsed_s > 0 ? done / elapsed_s : 0;
    char of[32], per[32], left[48], tail[128], bar[128] = "";
    if (p->unit) {
        snprintf(of, sizeof of, "%.0f/%.0f %s", done, total, p->unit);
        snprintf(per, sizeof per, "%.*f %s/s", rate < 10 ? 1 : 0, rate, p->unit);
    } else {
        human_bytes(total, of, sizeof of);
        human_bytes(rate, per, sizeof per);
        snprintf(per + strlen(per), sizeof per - strlen(per), "/s");
    }
    human_time(rate > 0 ? (total - done) / rate : 0, left, sizeof left);
    bool early = elapsed_s < 0.3 || done <= 0; /* to promise anything */
    snprintf(tail, sizeof tail, early ? "%s" : "%s  %s  %s left", of, per, left);

    /* A line that is too long would wrap, and could not be drawn over. */
    int spare = columns - 1 - width_of(str_of(p->label)) - 2 - width_of(str_of(tail));
    int cells = min_of(32, spare - 2), n = 0;
    for (int i = 0; cells >= LEAST_CELLS && i < cells; i++) /* each is a three-byte block */
        n += snprintf(bar + n, sizeof bar - (size_t)n, "%s", i < part * cells ? "█" : "░");
    if (spare >= 0)
        snprintf(line, size, "%s  %s%s%s", p->label, bar, n > 0 ? "  " : "", tail);
    else
        snprintf(line, size, "%s %.0f %%", p->label, 100 * part);
    line[width_cut(str_of(line), columns - 1).len] = 0;
}

static void draw(struct progress *p, double done, double total)
{
    char line[512];
    progress_line(line, sizeof line, p, done, total, now_s() - p->start_s, term_columns());
    err_write("\r\033[K", 4);
    err_write(line, strlen(line));
    p->shown = true;
    p->drawn_s = now_s();
    drawn = p;
}

void progress_begin(struct progress *p, const char *label, const char *unit)
{
    *p = (struct progress){ .label = label, .unit = unit, .start_s = now_s() };
    if (!term_animates())
        return;
    err_write("\r\033[K", 4);
    err_write(label, strlen(label));
    p->shown = true;
    drawn = p;
}

/* For SIGUSR1, also where nothing is drawn. */
static void note_progress(const struct progress *p, double done, double total)
{
    char of[32];
    if (p->unit)
        snprintf(of, sizeof of, "%.0f %s", total, p->unit);
    else
        human_bytes(total, of, sizeof of);
    note("%s: %.0f %% of %s, %.0f s", p->label, total > 0 ? 100 * done / total : 0, of,
         now_s() - p->start_s);
}

void progress_update(struct progress *p, double done, double total)
{
    if (signals_status())
        note_progress(p, done, total);
    if (p->shown && now_s() - p->drawn_s >= 0.1)
        draw(p, done, total);
    if (!p->shown && !p->told && term_stderr() && now_s() - p->start_s >= 0.1) {
        note("%s ...", p->label);
        p->told = true;
    }
}

void progress_end(struct progress *p)
{
    if (drawn == p)
        wipe_progress();
    p->shown = false;
}
