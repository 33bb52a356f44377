// A menu at a place of the page: closed by a choice, Escape, or a click elsewhere.

export interface Choice {
  text: string;
  act: () => void;
}

export function openMenu(x: number, y: number, choices: Choice[]): void {
  document.querySelector(".ostinato-menu")?.remove();
  const back = document.activeElement instanceof HTMLElement ? document.activeElement : null;
  const menu = Object.assign(document.createElement("div"), { className: "ostinato-menu" });
  menu.setAttribute("role", "menu");
  menu.style.left = `${Math.min(x, innerWidth - 240)}px`;
  menu.style.top = `${Math.min(y, innerHeight - 40 * choices.length)}px`;
  const close = () => {
    menu.remove();
    removeEventListener("pointerdown", elsewhere, true);
    back?.focus();
  };
  const elsewhere = ({ target }: Event) => {
    if (!menu.contains(target as Node)) close();
  };
  const buttons = choices.map(({ text, act }) => {
    const button = Object.assign(document.createElement("button"), { textContent: text, type: "button" });
    button.setAttribute("role", "menuitem");
    button.onclick = () => {
      close();
      act();
    };
    return button;
  });
  menu.append(...buttons);
  menu.onkeydown = (event) => {
    event.stopPropagation(); // an editor would take these for its own
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") close();
    if (step === undefined) return;
    event.preventDefault();
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    buttons[(at + step + buttons.length) % buttons.length]!.focus();
  };
  document.body.append(menu);
  addEventListener("pointerdown", elsewhere, true);
  buttons[0]?.focus();
}
