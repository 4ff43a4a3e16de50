// What a script sees, made once per engine. `host` is the Rust side, and the only one that knows the record at work:
// nothing here does, so nothing of one record is left for the next.
(function (host) {
  "use strict";
  const { defineProperty, freeze, getOwnPropertyDescriptor, getPrototypeOf, isExtensible, setPrototypeOf } = Object;
  const { apply, deleteProperty, ownKeys } = Reflect;
  const [CURRENT, PREVIOUS] = [0, 1];

  // A column, by name: it holds no value, so it always tells the one the record has now.
  class Element {
    #side;
    #column;
    constructor(side, column) {
      this.#side = side;
      this.#column = column;
    }
    #read() {
      return host.read(this.#side, this.#column) ?? null;
    }
    toString() {
      const value = this.#read();
      return value === null ? "" : `${value}`;
    }
    toJSON() {
      return this.#read();
    }
    getValue() {
      const value = this.#read();
      return typeof value === "boolean" ? (value ? "1" : "0") : value;
    }
    getDisplayValue() {
      const shown = `dv_${this.#column}`;
      return this.#side === CURRENT && host.has(CURRENT, shown) ? `${host.read(CURRENT, shown) ?? ""}` : this.toString();
    }
    nil() {
      return this.toString() === "";
    }
    isNil() {
      return this.nil();
    }
    setValue(value) {
      write(this.#side, this.#column, value);
    }
    changes() {
      return host.changes(this.#column);
    }
    changesTo(value) {
      return this.changes() && this.toString() === `${value ?? ""}`;
    }
    changesFrom(value) {
      return this.changes() && `${host.read(PREVIOUS, this.#column) ?? ""}` === `${value ?? ""}`;
    }
    static copy(column, value) {
      host.copy(column, value.#side, value.#column);
    }
  }

  function write(side, column, value) {
    if (side !== CURRENT) {
      host.refuse("previous is what was; set columns of current");
    }
    if (value instanceof Element) {
      Element.copy(column, value);
    } else {
      host.write(column, value);
    }
  }

  function record(side) {
    const methods = {
      __proto__: null,
      getValue: (column) => new Element(side, `${column}`).getValue(),
      setValue: (column, value) => write(side, `${column}`, value),
      getTableName: () => host.table(),
      operation: () => host.action(),
      isNewRecord: () => host.action() === "insert",
    };
    const element = (column) => (host.has(side, column) ? new Element(side, column) : undefined);
    return new Proxy({ __proto__: null }, {
      get: (_, name) => (typeof name === "symbol" ? undefined : (methods[name] ?? element(name))),
      set(_, name, value) {
        write(side, `${name}`, value);
        return true;
      },
      has: (_, name) => typeof name !== "symbol" && host.has(side, name),
      ownKeys: () => host.columns(side),
      getOwnPropertyDescriptor: (_, name) =>
        host.has(side, name) ? { value: element(name), writable: true, enumerable: true, configurable: true } : undefined,
      getPrototypeOf: () => null,
      defineProperty: () => false,
      deleteProperty: () => host.refuse("a script sets columns and does not remove them; name those that leave in columns"),
      preventExtensions: () => false,
      setPrototypeOf: () => false,
    });
  }

  // The same record gives the same result, whenever and however often it is sent.
  const absent = (name) => () => host.refuse(`${name} is not there: a script gives the same result whenever it runs`);
  const clock = absent("Date");
  globalThis.Date = Object.assign(function Date() { clock(); }, { now: clock, parse: clock, UTC: clock });
  Math.random = absent("Math.random");
  delete globalThis.queueMicrotask;
  delete globalThis.Promise;

  // Text is no program, and an error's stack is not for a script to make.
  const kinds = [function () {}, function* () {}, async function () {}, async function* () {}];
  delete globalThis.eval;
  delete globalThis.Function;
  kinds.forEach((kind) => delete getPrototypeOf(kind).constructor);
  delete Error.prepareStackTrace;
  delete Error.stackTraceLimit;
  delete Error.captureStackTrace;

  // The clock is looked at where functions are called and loops turn. These loop within the engine, over as many elements
  // as a length claims; more than this no memory of a script can hold.
  const ELEMENTS_MAX = 1 << 20;
  const loops = "concat copyWithin flat flatMap join reverse shift slice sort splice toLocaleString unshift".split(" ");
  for (const name of loops) {
    const builtin = Array.prototype[name];
    const guarded = function (...given) {
      for (const list of [this, ...given]) {
        if (typeof list === "object" && list?.length > ELEMENTS_MAX) {
          host.refuse("a list is longer than a script may hold");
        }
      }
      return apply(builtin, this, given);
    };
    defineProperty(Array.prototype, name, { value: guarded });
  }

  // A frozen property of a prototype would keep what inherits it from having its own (`this.toString = ..`).
  for (const prototype of [Object.prototype, Error.prototype]) {
    for (const key of ownKeys(prototype)) {
      const { value, configurable } = getOwnPropertyDescriptor(prototype, key);
      if (value === undefined || !configurable) {
        continue;
      }
      defineProperty(prototype, key, {
        get: () => value,
        set(own) {
          defineProperty(this, key, { value: own, writable: true, enumerable: true, configurable: true });
        },
      });
    }
  }

  const world = globalThis;
  const seen = new Set([world]);
  function harden(value) {
    if (value === null || (typeof value !== "object" && typeof value !== "function") || seen.has(value)) {
      return;
    }
    seen.add(value);
    for (const key of ownKeys(value)) {
      const own = getOwnPropertyDescriptor(value, key);
      [own.value, own.get, own.set].forEach(harden);
    }
    harden(getPrototypeOf(value));
    freeze(value);
  }

  // The global object is emptied into a frozen one behind it. What a script puts there is its own and taken out again.
  const builtins = { __proto__: getPrototypeOf(world) };
  for (const key of ownKeys(world)) {
    defineProperty(builtins, key, getOwnPropertyDescriptor(world, key));
    deleteProperty(world, key);
  }
  setPrototypeOf(world, builtins);
  const fixed = new Set(ownKeys(world));

  function clean() {
    for (const key of ownKeys(world)) {
      if (!fixed.has(key) && !deleteProperty(world, key)) {
        return false;
      }
    }
    return isExtensible(world) && getPrototypeOf(world) === builtins;
  }

  const [current, previous] = [record(CURRENT), record(PREVIOUS)];
  const log = (text) => host.log(`${text}`);
  const done = (action, ignore) => host.done(`${action}`, !!ignore);

  return function (script) {
    const iterators = [
      [].values(), new Map().values(), new Set().values(), ""[Symbol.iterator](), "".matchAll(/./g), [].values().map(String),
      Iterator.from({ next() {} }), Iterator.concat?.([]), Iterator.zip?.([]),
    ];
    [builtins, ...kinds, ...kinds.map((kind) => kind.prototype), ...iterators, Element, log, done, script].forEach(harden);
    return (hasPrevious) => {
      script(current, hasPrevious ? previous : null, host.action(), false, log, done);
      return clean();
    };
  };
})
