/** The host of an endpoint's URL, which may be shown without its path. */
export const hostOf = (url: string): string => URL.parse(url.replace("/…", ""))?.host ?? url;
