import clsx from "clsx";
import type { ComponentProps } from "react";

const base =
  "inline-flex items-center justify-center gap-1.5 whitespace-nowrap rounded-control text-body font-medium select-none disabled:opacity-50 transition-colors duration-100";

const tones = {
  primary: "bg-primary text-on-primary hover:not-disabled:opacity-85",
  plain: "border border-line-strong bg-bg text-fg hover:not-disabled:bg-raised",
  quiet: "text-muted hover:not-disabled:bg-raised hover:not-disabled:text-fg",
  danger: "border border-rejected bg-bg text-on-rejected-soft hover:not-disabled:bg-rejected-soft",
};

const sizes = { regular: "h-8 px-3", small: "h-7 px-2" };

/** The look of a button, for links that look like one. */
export function buttonClass(options: { tone?: keyof typeof tones; size?: keyof typeof sizes } = {}): string {
  return clsx(base, tones[options.tone ?? "plain"], sizes[options.size ?? "small"]);
}

/** A square button with only an icon; it needs an `aria-label`. */
export const iconButton =
  "inline-flex size-7 shrink-0 items-center justify-center rounded-control text-muted hover:bg-raised hover:text-fg";

export function Button({
  tone,
  size,
  className,
  type,
  ...props
}: ComponentProps<"button"> & { tone?: keyof typeof tones; size?: keyof typeof sizes }) {
  return (
    <button
      type={type ?? "button"}
      className={clsx(buttonClass({ ...(tone && { tone }), ...(size && { size }) }), className)}
      {...props}
    />
  );
}
