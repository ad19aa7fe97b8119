"""One part of the screen: a heading, lines that can be scrolled and of which one can be chosen, a total."""

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from runtime.watch.tables import QUIET, Table

_STALE = Style(color=QUIET)


class Panel(Widget, can_focus=True):
    """Shows a table. `keys` name its lines: the chosen one stays chosen when lines come and go above it."""

    DEFAULT_CSS = """
    Panel { height: 4; width: 1fr; }
    """
    COMPONENT_CLASSES = {"panel--heading", "panel--chosen"}  # noqa: RUF012 - as Textual declares it

    def __init__(self, id: str, *, choosing: bool = False) -> None:
        super().__init__(id=id)
        self._choosing = choosing
        self._table = Table(Text(), ())
        self._empty = ""
        self._keys: Sequence[str] = ()
        self._stale = False
        self._first = 0
        self.chosen: str | None = None

    # ---- content ----------------------------------------------------------------------------------------

    def show(self, table: Table, *, keys: Sequence[str] = (), empty: str = "", stale: bool = False) -> None:
        """Paint another content; `stale`: in grey, since nobody renews it. `empty` is said when there is none."""
        self._table, self._keys, self._empty, self._stale = table, keys, empty, stale
        if self._choosing and self.chosen not in keys:
            self.chosen = keys[0] if keys else None
        self._go_to(self._first)
        self.refresh()

    @property
    def wanted_height(self) -> int:
        """Lines with which everything would be seen."""
        return 1 + max(1, len(self._table.lines)) + bool(self._table.total and self._table.lines)

    def move(self, lines: int) -> None:
        """The choice, or without one the view, by so many lines (negative: up)."""
        if not self._choosing or not self._keys:
            self._go_to(self._first + lines)
        else:
            here = self._keys.index(self.chosen) if self.chosen in self._keys else 0
            index = min(max(0, here + lines), len(self._keys) - 1)
            self.chosen = self._keys[index]
            if index < self._first:
                self._go_to(index)
            elif index >= self._first + self._room:
                self._go_to(index - self._room + 1)
        self.refresh()

    @property
    def _room(self) -> int:
        """Lines between the heading and the total."""
        return max(0, self.size.height - 1 - (self._table.total is not None))

    def _go_to(self, offset: int) -> None:
        self._first = max(0, min(offset, len(self._table.lines) - self._room))

    # ---- painting ---------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One line of the panel (Textual's line API)."""
        if y == 0:
            return self._strip(self._heading(), self.get_component_rich_style("panel--heading"))
        total = self._table.total
        if total is not None and self._table.lines and y == min(self.size.height - 1, len(self._table.lines) + 1):
            return self._strip(total, Style())
        if not self._table.lines:
            return self._strip(Text(self._empty if y == 1 else "", style=QUIET), Style())
        index = self._first + y - 1
        if y > self._room or index >= len(self._table.lines):
            return self._strip(Text(), Style())
        chosen = self._choosing and index < len(self._keys) and self._keys[index] == self.chosen
        return self._strip(
            self._table.lines[index], self.get_component_rich_style("panel--chosen") if chosen else Style()
        )

    def _heading(self) -> Text:
        """The columns' titles; at the end which lines are seen, when not all are."""
        heading = self._table.heading.copy()
        count = len(self._table.lines)
        if count > self._room:
            note = f"  {self._first + 1}-{min(count, self._first + self._room)}/{count}"
            heading.truncate(max(0, self.size.width - len(note)), pad=True)
            heading.append(note)
        return heading

    def _strip(self, text: Text, style: Style) -> Strip:
        shown = Text(text.plain, style=_STALE, end="") if self._stale else text
        strip = Strip(list(shown.render(self.app.console, end="")))
        whole = self.rich_style + style
        return strip.adjust_cell_length(self.size.width, Style()).apply_style(whole)

    def notify_size(self) -> None:
        """The size changed: what was scrolled to may be beyond the end."""
        self._go_to(self._first)

    def on_resize(self) -> None:
        """See `notify_size`."""
        self.notify_size()

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """As wide as there is room."""
        return container.width

    # ---- mouse ------------------------------------------------------------------------------------------

    def on_mouse_scroll_down(self) -> None:
        """Three lines on."""
        self.move(1 if self._choosing else 3)

    def on_mouse_scroll_up(self) -> None:
        """Three lines back."""
        self.move(-1 if self._choosing else -3)

    def on_click(self, event: "object") -> None:
        """Choose the line that was clicked."""
        y = getattr(event, "y", 0)
        index = self._first + y - 1
        if self._choosing and 0 < y <= self._room and index < len(self._keys):
            self.chosen = self._keys[index]
            self.refresh()
